// Products of bfloat16 pairs without an instruction for them: what a CPU that has one computes, for tests anywhere.
#define ASCENDSPEED_VECTOR_BYTES 16
#define ASCENDSPEED_TILE_ROWS 6
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
namespace {

constexpr Products kBFloat16 = make_bfloat16<2>(ASCENDSPEED_TILE_ROWS, matmul<PairUnits>, spin<PairUnits>);

}  // namespace

extern const Microkernel kGenericBf16;
constexpr Microkernel kGenericBf16 = make_microkernel("generic_bf16", &kBFloat16);

}  // namespace ascendspeed::cpu
