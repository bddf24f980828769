// The matrix product of tiles, written once for every kind of unit and every width of vectors; see Products in
// microkernel.h for what a unit is.
//
// Part of microkernel_impl.h; see vector.h for why everything is in an unnamed namespace.
#pragma once

#include "cpu/vector.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace ascendspeed::cpu {
namespace {

struct FloatUnits {
  using Unit = float;
  using Units = Vec;
  static constexpr int kAlong = 1;
  static Units load_units(const Unit* p) { return load(p); }
  static Units repeat(Unit unit) { return broadcast(unit); }
  static Vec multiply_add(Vec sum, Units a, Units b) { return sum + a * b; }
};

// A number whose high half is a bfloat16, or a sum: 0 where it is denormal, as the instructions take it.
inline Vec flushed(UintVec v) { return (v & 0x7f800000) == 0 ? Vec{} : reinterpret_cast<Vec>(v & 0xffff0000); }
inline Vec flushed(Vec v) { return (reinterpret_cast<UintVec>(v) & 0x7f800000) == 0 ? Vec{} : v; }

// Two bfloat16 in the low and the high half of a word.
struct PairUnits {
  using Unit = Word;
  using Units = UintVec;
  static constexpr int kAlong = 2;
  static Units load_units(const Unit* p) { return *reinterpret_cast<const UnalignedUintVec*>(p); }
  static Units repeat(Unit unit) { return uint32_t{unit} - Units{}; }
  static Vec multiply_add(Vec sum, Units a, Units b) {
#if defined(__AVX512BF16__) && ASCENDSPEED_VECTOR_BYTES == 64
    return reinterpret_cast<Vec>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
#else
    sum = flushed(sum + flushed(a << 16) * flushed(b << 16));
    return flushed(sum + flushed(a) * flushed(b));
#endif
  }
};

// Rows x Vectors accumulators stay in registers while depth runs; b streams, a is broadcast.
template <typename U, int Rows, int Vectors>
inline void matmul_tile(int depth, const typename U::Unit* a, ptrdiff_t a_row, ptrdiff_t a_depth,
                        const typename U::Unit* b, int ldb, float* c, int ldc, bool accumulate) {
  Vec sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) sum[r][v] = accumulate ? load(c + r * ldc + v * kWidth) : Vec{};
  }
  for (int p = 0; p < depth; ++p) {
    typename U::Units columns[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) columns[v] = U::load_units(b + static_cast<ptrdiff_t>(p) * ldb + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const typename U::Units value = U::repeat(a[r * a_row + p * a_depth]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = U::multiply_add(sum[r][v], columns[v], value);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store(c + r * ldc + v * kWidth, sum[r][v]);
  }
}

template <typename U>
using MatmulTile = void (*)(int, const typename U::Unit*, ptrdiff_t, ptrdiff_t, const typename U::Unit*, int, float*,
                            int, bool);

// MakeTiles<U, V, Count>::entries[r]: the tile of r rows and V vectors.
template <typename U, int Vectors, int... Row>
struct TileTable {
  static constexpr MatmulTile<U> entries[] = {nullptr, matmul_tile<U, Row + 1, Vectors>...};
};
template <typename U, int Vectors, int Count, int... Row>
struct MakeTiles : MakeTiles<U, Vectors, Count - 1, Count - 1, Row...> {};
template <typename U, int Vectors, int... Row>
struct MakeTiles<U, Vectors, 0, Row...> : TileTable<U, Vectors, Row...> {};

template <typename U, int Vectors>
void matmul_columns(int rows, int depth, const typename U::Unit* a, ptrdiff_t a_row, ptrdiff_t a_depth,
                    const typename U::Unit* b, int ldb, float* c, int ldc, bool accumulate) {
  constexpr int kRows = ASCENDSPEED_TILE_ROWS;
  int r = 0;
  for (; r + kRows <= rows; r += kRows) {
    matmul_tile<U, kRows, Vectors>(depth, a + r * a_row, a_row, a_depth, b, ldb, c + static_cast<ptrdiff_t>(r) * ldc,
                                   ldc, accumulate);
  }
  if (r < rows) {
    MakeTiles<U, Vectors, kRows>::entries[rows - r](depth, a + r * a_row, a_row, a_depth, b, ldb,
                                                    c + static_cast<ptrdiff_t>(r) * ldc, ldc, accumulate);
  }
}

template <typename U>
void matmul(int rows, int columns, int depth, const void* a_units, ptrdiff_t a_row, ptrdiff_t a_depth,
            const void* b_units, int ldb, float* c, int ldc, bool accumulate) {
  const auto* b = static_cast<const typename U::Unit*>(b_units);
  // Columns outside, rows inside: one strip of b stays in the first-level cache while all of a passes. Where all of b
  // does, the other way round: c is then written from one end to the other.
  constexpr int kSmall = 2048;  // units
  const int step = depth * columns <= kSmall ? ASCENDSPEED_TILE_ROWS : rows;
  for (int r = 0; r < rows; r += step, c += static_cast<ptrdiff_t>(step) * ldc) {
    const auto* first = static_cast<const typename U::Unit*>(a_units) + r * a_row;
    const int count = rows - r < step ? rows - r : step;
    int n = 0;
    if (count == 1) {  // as many sums as hide the latency of a product
      for (; n + 8 * kWidth <= columns; n += 8 * kWidth) {
        matmul_tile<U, 1, 8>(depth, first, a_row, a_depth, b + n, ldb, c + n, ldc, accumulate);
      }
    }
    for (; n + 2 * kWidth <= columns; n += 2 * kWidth) {
      matmul_columns<U, 2>(count, depth, first, a_row, a_depth, b + n, ldb, c + n, ldc, accumulate);
    }
    for (; n < columns; n += kWidth) {
      matmul_columns<U, 1>(count, depth, first, a_row, a_depth, b + n, ldb, c + n, ldc, accumulate);
    }
  }
}

// The compiler must take `v` for changed: else it would compute a product that does not change once for all sums.
template <typename Units>
inline void renew(Units& v) {
#if defined(__aarch64__)
  asm volatile("" : "+w"(v));
#elif defined(__AVX512F__)
  asm volatile("" : "+v"(v));
#elif ASCENDSPEED_VECTOR_BYTES == 64
  asm volatile("" : "+m"(v));  // compiled for a machine without registers as wide
#else
  asm volatile("" : "+x"(v));
#endif
}

// As many sums as a register tile has, which hide the latency of the instruction.
template <typename U>
int64_t spin(int64_t rounds, float* sink) {
  constexpr int kSums = 2 * ASCENDSPEED_TILE_ROWS;
  Vec sum[kSums] = {};
  typename U::Units a = U::repeat({});
  const typename U::Units b = U::repeat({});
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
      renew(a);
      sum[i] = U::multiply_add(sum[i], a, b);
    }
  }
  Vec total{};
  for (const Vec& s : sum) total += s;
  *sink = total[0];
  return rounds * kSums * kWidth * U::kAlong * 2;
}

}  // namespace
}  // namespace ascendspeed::cpu
