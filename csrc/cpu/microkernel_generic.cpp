// Any CPU the compiler's baseline targets: 128-bit vectors (SSE2 on x86-64, NEON on aarch64).
#define ASCENDSPEED_VECTOR_BYTES 16
#define ASCENDSPEED_TILE_ROWS 6  // 12 accumulators, 2 vectors of b and 1 of a in 16 registers
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
extern const Microkernel kGeneric;
constexpr Microkernel kGeneric = make_microkernel("generic", nullptr);

}  // namespace ascendspeed::cpu
