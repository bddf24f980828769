// x86-64 with AMX on bfloat16: tiles multiply pairs of bfloat16 into float32 sums. All else is AVX-512's.
#define ASCENDSPEED_VECTOR_BYTES 64
#define ASCENDSPEED_TILE_ROWS 12  // of products of float32
#include "cpu/amx_tiles.h"
#include "cpu/microkernel_impl.h"

namespace ascendspeed::cpu {
namespace {

constexpr int kTile = 16;  // most rows of a tile, and most words in one of its rows
static_assert(kTile == kWidth && kTile == kTileAlign);

// Tiles 0 to 3 are sums; the others hold what is multiplied. Half of them are for each of two row tiles of c.
constexpr int kFirstFactor = 4, kSecondFactor = 6;

// What ldtilecfg reads. A tile of 0 rows may not be used.
struct alignas(64) TileShapes {
  uint8_t palette = 1, reserved[15] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int tile_rows, int tile_words) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(4 * tile_words);
  }
};
static_assert(sizeof(TileShapes) == 64);

// A piece of the depth for up to two row tiles: `steps` instructions deep. Strides count words.
struct Factors {
  const Word *a, *b;
  ptrdiff_t a_row, a_step, b_row, b_step;
  int steps;
};

template <int N>
struct Index {
  constexpr operator int() const { return N; }
};

// use(Index<0>) to use(Index<Count - 1>).
template <int Count, typename Use>
inline void for_each_index(Use&& use) {
  if constexpr (Count > 0) {
    for_each_index<Count - 1>(use);
    use(Index<Count - 1>{});
  }
}

// Rows x Columns tiles of c stay in tiles 0 to 3 while depth runs: side by side, then below each other.
template <int Rows, int Columns>
void multiply_block(const Factors f, int n, float* c, int ldc, bool accumulate) {
  constexpr int kBelow = 4 / Rows;  // the sum below the first
  const ptrdiff_t a_stride = f.a_row * 4, b_stride = f.b_row * 4, c_stride = ldc * ptrdiff_t{4};
  const auto for_each_sum = [=](auto use) {
    for_each_index<Rows>([=](auto r) {
      for_each_index<Columns>(
          [=](auto v) { use(Index<r * kBelow + v>{}, c + r * kTile * ptrdiff_t{ldc} + n + v * kTile); });
    });
  };
  for_each_sum([=](auto sum, const float* at) {
    if (accumulate) {
      tile_load<sum>(at, c_stride);
    } else {
      tile_zero<sum>();
    }
  });
  const Word *a = f.a, *b = f.b + n;
  for (int step = 0; step < f.steps; ++step, a += f.a_step, b += f.b_step) {
    for_each_index<Rows>([=](auto r) { tile_load<kFirstFactor + r>(a + r * kTile * f.a_row, a_stride); });
    for_each_index<Columns>([=](auto v) {
      constexpr int kColumn = v, kB = kSecondFactor + v % 2;
      tile_load<kB>(b + kColumn * kTile, b_stride);
      for_each_index<Rows>([](auto r) { tile_multiply_add<r * kBelow + kColumn, kFirstFactor + r, kB>(); });
    });
  }
  for_each_sum([=](auto sum, float* at) { tile_store<sum>(at, c_stride); });
}

// Four sums hide the latency of the instruction: two by two, or side by side where c has no second row tile.
template <int Rows>
void multiply_columns(int columns, const Factors& f, float* c, int ldc, bool accumulate) {
  constexpr int kMost = 4 / Rows;
  int n = 0;
  for (; n + kMost * kTile <= columns; n += kMost * kTile) multiply_block<Rows, kMost>(f, n, c, ldc, accumulate);
  for (; n < columns; n += kTile) multiply_block<Rows, 1>(f, n, c, ldc, accumulate);
}

// `upper` and `lower` rows of c, none of the latter for one row tile, by steps of `words`.
void configure(int upper, int lower, int words) {
  TileShapes shapes;
  for (int sum = 0; sum < 4; ++sum) shapes.set(sum, sum < 2 || lower == 0 ? upper : lower, kTile);
  shapes.set(kFirstFactor, upper, words);
  if (lower > 0) shapes.set(kFirstFactor + 1, lower, words);
  for (int i = 0; i < 2; ++i) shapes.set(kSecondFactor + i, words, kTile);
  tile_configure(&shapes);
}

// Steps of the first factor that lies transposed, as row-major tiles: [steps][two row tiles][kTile][kTile].
constexpr int kPanelSteps = 4;
typedef Word Panel[kPanelSteps][2][kTile][kTile];

void transpose_factor(int rows, int words, int steps, const Word* a, ptrdiff_t a_row, ptrdiff_t a_depth, Panel panel) {
  for (int step = 0; step < steps; ++step) {
    for (int first = 0; first < rows; first += kTile) {
      const int count = rows - first < kTile ? rows - first : kTile;
      Vec lines[kTile] = {};
      for (int p = 0; p < words; ++p) {
        const Word* from = a + first * a_row + (step * words + p) * a_depth;
        if (a_row == 1 && count == kTile) {
          lines[p] = reinterpret_cast<Vec>(PairUnits::load_units(from));
        } else {
          UintVec line{};
          for (int r = 0; r < count; ++r) line[r] = from[r * a_row];
          lines[p] = reinterpret_cast<Vec>(line);
        }
      }
      transpose(lines);
      for (int r = 0; r < kTile; ++r) store(reinterpret_cast<float*>(panel[step][first / kTile][r]), lines[r]);
    }
  }
}

void matmul_tiles(int rows, int columns, int depth, const void* a_units, ptrdiff_t a_row, ptrdiff_t a_depth,
                  const void* b_units, int ldb, float* c, int ldc, bool accumulate) {
  if (depth == 0) {
    for (int r = 0; r < rows && !accumulate; ++r) {
      for (int n = 0; n < columns; n += kWidth) store(c + static_cast<ptrdiff_t>(r) * ldc + n, Vec{});
    }
    return;
  }
  const auto* a = static_cast<const Word*>(a_units);
  const auto* b = static_cast<const Word*>(b_units);
  const bool transposed = a_depth != 1;
  alignas(64) Panel panel;
  int shape[3] = {};  // the configured one
  for (int first = 0, words, steps; first < depth; first += steps * words, accumulate = true) {
    const int left = depth - first, least_steps = (left + kTile - 1) / kTile;
    // All that is left by equal steps if that can be, else what fills tiles.
    words = left % least_steps == 0 ? left / least_steps : kTile;
    steps = left / words;
    if (transposed && steps > kPanelSteps) steps = kPanelSteps;
    for (int r = 0; r < rows; r += 2 * kTile) {
      const int upper = rows - r < kTile ? rows - r : kTile, below = rows - r - upper;
      const int lower = below < kTile ? below : kTile;
      if (shape[0] != upper || shape[1] != lower || shape[2] != words) {
        configure(upper, lower, words);
        shape[0] = upper, shape[1] = lower, shape[2] = words;
      }
      const Word* from = a + r * a_row + first * a_depth;
      Factors f{from, b + static_cast<ptrdiff_t>(first) * ldb, a_row, words, ldb, words * ptrdiff_t{ldb}, steps};
      if (transposed) {
        transpose_factor(upper + lower, words, steps, from, a_row, a_depth, panel);
        f.a = panel[0][0][0], f.a_row = kTile, f.a_step = 2 * kTile * kTile;
      }
      const auto multiply = lower > 0 ? multiply_columns<2> : multiply_columns<1>;
      multiply(columns, f, c + static_cast<ptrdiff_t>(r) * ldc, ldc, accumulate);
    }
  }
  tile_release();
}

// The four sums that a block has, of full tiles.
int64_t spin_tiles(int64_t rounds, float* sink) {
  configure(kTile, kTile, kTile);
  for_each_index<8>([](auto tile) { tile_zero<tile>(); });
  for (int64_t round = 0; round < rounds; ++round) {
    for_each_index<4>([](auto i) { tile_multiply_add<i, kFirstFactor + i / 2, kSecondFactor + i % 2>(); });
  }
  alignas(64) float sums[kTile][kTile];
  tile_store<0>(sums, sizeof sums[0]);
  tile_release();
  *sink = sums[0][0];
  return rounds * 4 * kTile * kTile * kTile * 2 * 2;
}

constexpr Products kBFloat16 = make_bfloat16<2>(kTile, matmul_tiles, spin_tiles);

}  // namespace

extern const Microkernel kAmxBf16;
constexpr Microkernel kAmxBf16 = make_microkernel("amx_bf16", &kBFloat16);

}  // namespace ascendspeed::cpu
