// Vectors of floats in the compiler's own vector extension: one source for every instruction set.
//
// Included only by microkernel_*.cpp through microkernel_impl.h, after ASCENDSPEED_VECTOR_BYTES is set. Everything
// lies in an unnamed namespace and calls no function of another header: an inline function instantiated here with
// AVX-512 flags could otherwise become the copy that the linker keeps for everybody.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/microkernel.h"

namespace ascendspeed::cpu {
namespace {

constexpr int kWidth = ASCENDSPEED_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES)));
typedef int32_t IntVec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES)));
typedef uint32_t UintVec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES)));
typedef float UnalignedVec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t UnalignedUintVec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES), aligned(2), may_alias));
typedef uint32_t Word __attribute__((may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES / 2), aligned(2), may_alias));
typedef uint8_t ByteVec __attribute__((vector_size(ASCENDSPEED_VECTOR_BYTES / 4), aligned(1), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec broadcast(float x) { return x - Vec{}; }  // 0 + x would lose the sign of -0, so the compiler keeps that add
inline Vec as_float(IntVec v) { return reinterpret_cast<Vec>(v); }
inline IntVec as_int(Vec v) { return reinterpret_cast<IntVec>(v); }

inline IntVec column_index(int first) {
  IntVec v;
  for (int i = 0; i < kWidth; ++i) v[i] = first + i;
  return v;
}

// Lane i from lane i + Step of the lower or upper half, so that log2(kWidth) steps combine all.
template <int Step>
inline Vec rotate(Vec v) {
  IntVec lanes;
  for (int i = 0; i < kWidth; ++i) lanes[i] = (i + Step) % kWidth;
  return __builtin_shuffle(v, lanes);
}

template <int Step = kWidth / 2>
inline float horizontal_sum(Vec v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    return horizontal_sum<Step / 2>(v + rotate<Step>(v));
  }
}

template <int Step = kWidth / 2>
inline float horizontal_max(Vec v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    const Vec other = rotate<Step>(v);
    return horizontal_max<Step / 2>(other > v ? other : v);
  }
}

// kWidth x kWidth numbers, or words of two halves, in place: each step exchanges the blocks off the diagonal.
template <int Step = kWidth / 2>
inline void transpose(Vec (&rows)[kWidth]) {
  if constexpr (Step > 0) {
    IntVec low, high;
    for (int lane = 0; lane < kWidth; ++lane) {
      low[lane] = (lane & Step) == 0 ? lane : kWidth + lane - Step;
      high[lane] = (lane & Step) == 0 ? lane + Step : kWidth + lane;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) {
      if ((i & Step) != 0) continue;
      const Vec a = rows[i], b = rows[i + Step];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + Step] = __builtin_shuffle(a, b, high);
    }
    transpose<Step / 2>(rows);
  }
}

// kWidth columns of `rows` rows to kWidth lines of `ld` floats, each with zeros up to a whole number of cache lines.
// row(r): those columns of row r.
template <typename Row>
inline void transpose_lines(int rows, int ld, float* lines, Row&& row) {
  int r = 0;
  for (; r < rows; r += kWidth) {
    Vec block[kWidth];
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) block[i] = r + i < rows ? row(r + i) : Vec{};
    transpose(block);
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) store(lines + static_cast<ptrdiff_t>(i) * ld + r, block[i]);
  }
  for (; r % kTileAlign != 0; r += kWidth) {
    for (int i = 0; i < kWidth; ++i) store(lines + static_cast<ptrdiff_t>(i) * ld + r, Vec{});
  }
}

// exp(x) for x <= 0 up to rounding (any x <= 88), within 1.2 times 2^-24; below -87.7 it is 0, NaN stays NaN.
// x = n * ln2 + r with |r| <= ln2 / 2; e^r by a polynomial of degree 6, minimax but for its first two terms (3.1e-9
// relative), then 2^n by exponent bits, where n = -127 gives 0.
inline Vec exp_nonpositive(Vec x) {
  constexpr float kLowest = -88.02969f;  // -127 ln2
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  x = x < kLowest ? broadcast(kLowest) : x;
  const Vec shifted = x * 1.44269504088896341f + kRound;
  const Vec n = shifted - kRound;
  const Vec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Vec e = 1.3814539e-3f * r + 8.3687454e-3f;
  e = e * r + 4.1668389e-2f;
  e = e * r + 1.6666521e-1f;
  e = e * r + 4.9999994e-1f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const IntVec power = (as_int(shifted) + 127) << 23;  // multiplied, not added to the exponent: NaN must stay NaN
  return e * as_float(power);
}

}  // namespace
}  // namespace ascendspeed::cpu
