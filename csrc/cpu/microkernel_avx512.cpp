// x86-64 with AVX-512 F, BW, DQ and VL: 512-bit vectors, 32 registers.
#define ASCENDSPEED_VECTOR_BYTES 64
#define ASCENDSPEED_TILE_ROWS 12  // 24 accumulators, 2 vectors of b and 1 of a in 32 registers
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
extern const Microkernel kAvx512;
constexpr Microkernel kAvx512 = make_microkernel("avx512", nullptr);

}  // namespace ascendspeed::cpu
