// x86-64 with AVX2, FMA and F16C: 256-bit vectors, 16 registers.
#define ASCENDSPEED_VECTOR_BYTES 32
#define ASCENDSPEED_TILE_ROWS 6  // 12 accumulators, 2 vectors of b and 1 of a in 16 registers
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
extern const Microkernel kAvx2;
constexpr Microkernel kAvx2 = make_microkernel("avx2", nullptr);

}  // namespace ascendspeed::cpu
