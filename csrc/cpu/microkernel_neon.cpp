// aarch64, where NEON is always there: 128-bit vectors, 32 registers.
#define ASCENDSPEED_VECTOR_BYTES 16
#define ASCENDSPEED_TILE_ROWS 12  // 24 accumulators, 2 vectors of b and numbers of a in 32 registers
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
extern const Microkernel kNeon;
constexpr Microkernel kNeon = make_microkernel("neon", nullptr);

}  // namespace ascendspeed::cpu
