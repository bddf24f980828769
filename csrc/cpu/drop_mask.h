// The mask that the kernels generate tile by tile, whole.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace ascendspeed::cpu {

// Writes drop_mask_bytes(numel) bytes: bit e as attention/dropout.h numbers them, 0 past numel. keep_prob is in (0, 1].
void generate_drop_mask(uint64_t seed, uint64_t offset, double keep_prob, int64_t numel, const Parallel& parallel,
                        uint8_t* bytes);

}  // namespace ascendspeed::cpu
