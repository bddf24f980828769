// aarch64 with FEAT_BF16: bfmmla multiplies two rows by two columns of 4 bfloat16 each into 2 x 2 float32 sums.
#define ASCENDSPEED_VECTOR_BYTES 16
#define ASCENDSPEED_TILE_ROWS 12
#include <arm_neon.h>

#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
namespace {

constexpr int kAlong = 4;                                                               // numbers of a unit: 64 bits
constexpr int kPairs = ASCENDSPEED_TILE_ROWS / 2, kBlocks = 4, kColumns = 2 * kBlocks;  // 24 sums of 2 x 2
constexpr int kPanelDepth = 64;  // units of a panel, which a first-level cache holds beside the tile of b
static_assert(ASCENDSPEED_TILE_ROWS % kAlong == 0 && kTileAlign % kColumns == 0);

inline bfloat16x8_t two_units(const uint16_t* p) { return vreinterpretq_bf16_u16(vld1q_u16(p)); }

// Units (r, p) of up to 2 * kPairs rows as matmul_panel reads them: for each p, the two rows of each pair beside each
// other. Where the second is not there the first stands for it; its sums are not stored.
void pack_panel(int rows, int depth, const uint16_t* a, ptrdiff_t a_row, ptrdiff_t a_depth, uint16_t* panel) {
  const int pairs = (rows + 1) / 2, line = pairs * 2 * kAlong;
  for (int i = 0; i < pairs; ++i) {
    const uint16_t* low = a + 2 * i * a_row * kAlong;
    const uint16_t* high = 2 * i + 1 < rows ? low + a_row * kAlong : low;
    uint16_t* to = panel + i * 2 * kAlong;
    int p = 0;
    if (a_depth == 1) {
      for (; p + 2 <= depth; p += 2, to += 2 * line) {
        const uint64x2_t first = vreinterpretq_u64_u16(vld1q_u16(low + p * kAlong));
        const uint64x2_t second = vreinterpretq_u64_u16(vld1q_u16(high + p * kAlong));
        vst1q_u16(to, vreinterpretq_u16_u64(vzip1q_u64(first, second)));
        vst1q_u16(to + line, vreinterpretq_u16_u64(vzip2q_u64(first, second)));
      }
    }
    for (; p < depth; ++p, to += line) {
      const ptrdiff_t at = p * a_depth * kAlong;
      vst1q_u16(to, vcombine_u16(vld1_u16(low + at), vld1_u16(high + at)));
    }
  }
}

// Rows of two pairs of sums between memory and the blocks of bfmmla; its own inverse.
inline void exchange(float32x4_t& first, float32x4_t& second) {
  const float64x2_t a = vreinterpretq_f64_f32(first), b = vreinterpretq_f64_f32(second);
  first = vreinterpretq_f32_f64(vzip1q_f64(a, b));
  second = vreinterpretq_f32_f64(vzip2q_f64(a, b));
}

// c[2 * Pairs][kColumns] (+)= panel * b. `odd`: the last pair has one row.
template <int Pairs>
void matmul_panel(bool odd, int depth, const uint16_t* panel, const uint16_t* b, ptrdiff_t ldb, float* c, ptrdiff_t ldc,
                  bool accumulate) {
  float32x4_t sum[Pairs][kBlocks] = {};
  const auto second_row = [&](int i) { return c + (odd && i == Pairs - 1 ? 2 * i : 2 * i + 1) * ldc; };
  if (accumulate) {
#pragma GCC unroll 16
    for (int i = 0; i < Pairs; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kBlocks; v += 2) {
        sum[i][v] = vld1q_f32(c + 2 * i * ldc + 2 * v);
        sum[i][v + 1] = vld1q_f32(second_row(i) + 2 * v);
        exchange(sum[i][v], sum[i][v + 1]);
      }
    }
  }
  for (int p = 0; p < depth; ++p) {
    bfloat16x8_t columns[kBlocks];
#pragma GCC unroll 4
    for (int v = 0; v < kBlocks; ++v) columns[v] = two_units(b + (p * ldb + 2 * v) * kAlong);
#pragma GCC unroll 16
    for (int i = 0; i < Pairs; ++i) {
      const bfloat16x8_t rows = two_units(panel + (p * Pairs + i) * 2 * kAlong);
#pragma GCC unroll 4
      for (int v = 0; v < kBlocks; ++v) sum[i][v] = vbfmmlaq_f32(sum[i][v], rows, columns[v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Pairs; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kBlocks; v += 2) {
      exchange(sum[i][v], sum[i][v + 1]);
      // In this order: where there is no second row, the first is written last.
      vst1q_f32(second_row(i) + 2 * v, sum[i][v + 1]);
      vst1q_f32(c + 2 * i * ldc + 2 * v, sum[i][v]);
    }
  }
}

constexpr decltype(&matmul_panel<1>) kMatmulPanel[] = {
    nullptr, matmul_panel<1>, matmul_panel<2>, matmul_panel<3>, matmul_panel<4>, matmul_panel<5>, matmul_panel<6>};
static_assert(sizeof(kMatmulPanel) / sizeof(kMatmulPanel[0]) == kPairs + 1);

void matmul_blocks(int rows, int columns, int depth, const void* a_units, ptrdiff_t a_row, ptrdiff_t a_depth,
                   const void* b_units, int ldb, float* c, int ldc, bool accumulate) {
  const auto* a = static_cast<const uint16_t*>(a_units);
  const auto* b = static_cast<const uint16_t*>(b_units);
  uint16_t panel[kPanelDepth * 2 * kPairs * kAlong];
  int first = 0;
  do {  // once at least: without depth, c may have to become 0
    const int count = depth - first < kPanelDepth ? depth - first : kPanelDepth;
    for (int r = 0; r < rows; r += 2 * kPairs) {
      const int some = rows - r < 2 * kPairs ? rows - r : 2 * kPairs;
      pack_panel(some, count, a + (r * a_row + first * a_depth) * kAlong, a_row, a_depth, panel);
      for (int n = 0; n < columns; n += kColumns) {
        kMatmulPanel[(some + 1) / 2](some % 2 != 0, count, panel,
                                     b + (static_cast<ptrdiff_t>(first) * ldb + n) * kAlong, ldb,
                                     c + static_cast<ptrdiff_t>(r) * ldc + n, ldc, accumulate || first > 0);
      }
    }
    first += count;
  } while (first < depth);
}

int64_t spin_blocks(int64_t rounds, float* sink) {
  constexpr int kSums = kPairs * kBlocks;
  float32x4_t sum[kSums] = {};
  bfloat16x8_t a = vreinterpretq_bf16_u16(vdupq_n_u16(0));
  const bfloat16x8_t b = a;
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (float32x4_t& s : sum) {
      renew(a);
      s = vbfmmlaq_f32(s, a, b);
    }
  }
  float32x4_t total{};
  for (const float32x4_t& s : sum) total += s;
  *sink = total[0];
  return rounds * kSums * 4 * kAlong * 2;
}

constexpr Products kBFloat16 = make_bfloat16<kAlong>(ASCENDSPEED_TILE_ROWS, matmul_blocks, spin_blocks);

}  // namespace

extern const Microkernel kNeonBf16;
constexpr Microkernel kNeonBf16 = make_microkernel("neon_bf16", &kBFloat16);

}  // namespace ascendspeed::cpu
