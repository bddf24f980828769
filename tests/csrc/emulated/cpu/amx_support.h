// Stands in for csrc/cpu/amx_support.h where amx_tiles.h beside it stands in for the instructions.
#pragma once

namespace ascendspeed::cpu {

inline bool has_amx_bf16(bool /*has_avx512_bf16*/) { return true; }

}  // namespace ascendspeed::cpu
