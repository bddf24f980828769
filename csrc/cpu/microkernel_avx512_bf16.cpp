// x86-64 with AVX-512 F, BW, DQ, VL and BF16: vdpbf16ps multiplies pairs of bfloat16 into float32 sums.
#define ASCENDSPEED_VECTOR_BYTES 64
#define ASCENDSPEED_TILE_ROWS 12  // 24 accumulators, 2 vectors of b and 1 of a in 32 registers
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
namespace {

constexpr Products kBFloat16 = make_bfloat16<2>(ASCENDSPEED_TILE_ROWS, matmul<PairUnits>, spin<PairUnits>);

}  // namespace

extern const Microkernel kAvx512Bf16;
constexpr Microkernel kAvx512Bf16 = make_microkernel("avx512_bf16", &kBFloat16);

}  // namespace ascendspeed::cpu
