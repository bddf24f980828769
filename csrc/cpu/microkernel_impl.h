// The primitives of microkernel.h, written once in vector extensions; each microkernel_*.cpp compiles them at its
// own width. See vector.h for why everything is in an unnamed namespace.
//
// Before including: ASCENDSPEED_VECTOR_BYTES, and ASCENDSPEED_TILE_ROWS x 2 vectors, the register tile of matmul.
#pragma once

#include "cpu/bf16_operands.h"
#include "cpu/convert.h"
#include "cpu/microkernel.h"
#include "cpu/philox.h"
#include "cpu/products.h"
#include "cpu/vector.h"

namespace ascendspeed::cpu {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

inline IntVec visible_lanes(const RowVisibility& visible, int first) {
  const IntVec column = column_index(first);
  IntVec lanes = (column >= visible.begin) & (column < visible.end);
  if (visible.mask != nullptr) {
    ByteVec bytes;
    __builtin_memcpy(&bytes, visible.mask + first, sizeof(bytes));
    lanes &= __builtin_convertvector(bytes, IntVec) == 0;
  }
  return lanes;
}

inline bool whole_row(const RowVisibility& visible, int columns) {
  return visible.begin <= 0 && visible.end >= columns && visible.mask == nullptr;
}

bool any_visible(const RowVisibility& visible) {
  if (visible.mask == nullptr) return visible.begin < visible.end;
  for (int c = visible.begin < 0 ? 0 : visible.begin; c < visible.end; ++c) {
    if (visible.mask[c] == 0) return true;
  }
  return false;
}

template <bool Whole>
float largest_score(int columns, float scale, const RowVisibility* visible, const float* scores, float before) {
  Vec max = broadcast(before);
  for (int c = 0; c < columns; c += kWidth) {
    Vec x = load(scores + c) * scale;
    if constexpr (!Whole) x = visible_lanes(*visible, c) ? x : broadcast(kMinusInfinity);
    max = x > max ? x : max;
  }
  return horizontal_max(max);
}

// Returns their sum.
template <bool Whole>
float exponentials(int columns, float scale, const RowVisibility* visible, float subtracted, float* scores) {
  Vec sum{};
  for (int c = 0; c < columns; c += kWidth) {
    Vec e = exp_nonpositive(load(scores + c) * scale - subtracted);
    if constexpr (!Whole) e = visible_lanes(*visible, c) ? e : Vec{};
    store(scores + c, e);
    sum += e;
  }
  return horizontal_sum(sum);
}

// One pass over all rows for the maxima, a second for the rest: a row's exponentials wait for its maximum, but not for
// another row's.
void softmax_rows(int rows, int columns, float scale, const RowVisibility* visible, float* scores, int ld,
                  RowStats* stats, float* factors) {
  const RowVisibility all{0, columns, nullptr};
  const auto seen_by = [&](int r) { return visible == nullptr ? &all : visible + r; };
  for (int r = 0; r < rows; ++r) {
    const auto largest = whole_row(*seen_by(r), columns) ? largest_score<true> : largest_score<false>;
    factors[r] = largest(columns, scale, seen_by(r), scores + static_cast<ptrdiff_t>(r) * ld, stats[r].max);
  }
  for (int r = 0; r < rows; ++r) {
    const float max = factors[r];
    float* row = scores + static_cast<ptrdiff_t>(r) * ld;
    if (max == kMinusInfinity && !any_visible(*seen_by(r))) {
      for (int c = 0; c < columns; c += kWidth) store(row + c, Vec{});
      factors[r] = 1.0f;
      continue;
    }
    // Scores of -inf alone have no maximum that could be subtracted; their weights are 0 against any number.
    const float subtracted = max == kMinusInfinity ? 0.0f : max;
    const auto row_exponentials = whole_row(*seen_by(r), columns) ? exponentials<true> : exponentials<false>;
    const float row_sum = row_exponentials(columns, scale, seen_by(r), subtracted, row);
    // Nothing to move where nothing was summed up, which is so in every row's first tile.
    const bool stays = stats[r].max == max || stats[r].sum == 0.0f;
    factors[r] = stays ? 1.0f : exp_nonpositive(broadcast(stats[r].max - subtracted))[0];
    // A NaN score loses every comparison above; it shows in the sum, and the maximum of a row with NaN is NaN.
    const bool poisoned = row_sum != row_sum && max < __builtin_inff();
    stats[r].max = poisoned ? row_sum : max;
    stats[r].sum = stats[r].sum * factors[r] + row_sum;
  }
}

template <bool Whole>
void softmax_grad_row_as(int columns, float scale, float grad_scale, const RowVisibility& visible, float max,
                         float inverse_sum, float delta, float* scores, float* dp) {
  for (int c = 0; c < columns; c += kWidth) {
    const Vec x = load(scores + c) * scale - max;  // positive only where the statistics are not of these scores
    Vec p = exp_nonpositive(x > 88.0f ? broadcast(88.0f) : x) * inverse_sum;
    Vec ds = (p * grad_scale) * (load(dp + c) - delta);
    if (!Whole) {
      const IntVec lanes = visible_lanes(visible, c);
      p = lanes ? p : Vec{};
      ds = lanes ? ds : Vec{};
    }
    store(scores + c, p);
    store(dp + c, ds);
  }
}

void softmax_grad_row(int columns, float scale, float grad_scale, RowVisibility visible, float max, float inverse_sum,
                      float delta, float* scores, float* dp) {
  const auto as = whole_row(visible, columns) ? softmax_grad_row_as<true> : softmax_grad_row_as<false>;
  as(columns, scale, grad_scale, visible, max, inverse_sum, delta, scores, dp);
}

void add_row(int columns, float factor, const float* shift, float* row) {
  for (int c = 0; c < columns; c += kWidth) store(row + c, factor * load(row + c) + load(shift + c));
}

void distance_row(int columns, float factor, int64_t first, bool root, float* row) {
  // Lengths end at 2^20 but start indices do not: distances beyond 2^24 round as any float32 does.
  for (int c = 0; c < columns; ++c) {
    const int64_t signed_distance = first + c;
    const float distance = static_cast<float>(signed_distance < 0 ? -signed_distance : signed_distance);
    row[c] = factor * (root ? __builtin_sqrtf(distance) : distance);
  }
}

void drop_row(int columns, float factor, const uint8_t* keep, float* row) {
  for (int c = 0; c < columns; c += kWidth) {
    ByteVec bytes;
    __builtin_memcpy(&bytes, keep + c, sizeof(bytes));
    const IntVec lanes = __builtin_convertvector(bytes, IntVec) != 0;
    store(row + c, lanes ? load(row + c) * factor : Vec{});
  }
}

void scale_row(int columns, float factor, float* row) {
  for (int c = 0; c < columns; c += kWidth) store(row + c, load(row + c) * factor);
}

void dots(int count, int columns, const float* a, const float* b, ptrdiff_t ldb, float* c) {
  constexpr int kTogether = 4;  // sums that hide the latency of a product
  int i = 0;
  for (; i + kTogether <= count; i += kTogether, b += kTogether * ldb) {
    Vec sum[kTogether] = {};
    for (int k = 0; k < columns; k += kWidth) {
      const Vec x = load(a + k);
#pragma GCC unroll 4
      for (int n = 0; n < kTogether; ++n) sum[n] += x * load(b + n * ldb + k);
    }
    for (int n = 0; n < kTogether; ++n) c[i + n] = horizontal_sum(sum[n]);
  }
  for (; i < count; ++i, b += ldb) {
    Vec sum{};
    for (int k = 0; k < columns; k += kWidth) sum += load(a + k) * load(b + k);
    c[i] = horizontal_sum(sum);
  }
}

constexpr Products kFloat32 = {
    1,       4,       ASCENDSPEED_TILE_ROWS, matmul<FloatUnits>, load_rows, load_transposed, load_rows,
    nullptr, nullptr, spin<FloatUnits>};

template <int Along>
constexpr Products make_bfloat16(int strip, decltype(Products::matmul) matmul, decltype(Products::spin) spin) {
  return {Along,
          2 * Along,
          strip,
          matmul,
          load_bf16_rows<Along>,
          load_bf16_transposed<Along>,
          load_bf16_stacked<Along>,
          pack_bf16_rows<Along>,
          pack_bf16_stacked<Along>,
          spin};
}

constexpr Microkernel make_microkernel(const char* name, const Products* bfloat16) {
  return {name,     kFloat32,      bfloat16,  softmax_rows, softmax_grad_row, add_row, distance_row,
          drop_row, generate_keep, scale_row, dots,         store_rows};
}

}  // namespace
}  // namespace ascendspeed::cpu
