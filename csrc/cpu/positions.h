// Factors and sums of products at positions of a head: copied as Products wants them, or where they lie.
//
// With few rows a transpose takes longer than all products with it, and so may a copy.
#pragma once

#include "cpu/microkernel.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {

constexpr int kFewRows = 4;        // of a sequence: its keys are not transposed
constexpr int kFewPositions = 32;  // of a head: read more than once, and yet in the first-level cache as they lie

// `rows`: positions one after the other, a position `ld` units after the one before; else transposed.
struct Positions {
  bool rows;
  const void* data;
  int ld;
};

// Whether positions are a float32 tile already.
inline bool lie_as_tile(const AttentionParams& p, const Strides& strides, int64_t columns) {
  return p.dtype == DType::kFloat32 && strides.dim == 1 && columns % kTileAlign == 0 &&
         strides.position == static_cast<int>(strides.position);
}
inline bool lie_as_tile(const AttentionParams& p, const Source& from) {
  return lie_as_tile(p, from.view.strides, from.columns) && from.rope_columns == 0;
}

// In rows: where they lie, or as a copy of `ld`.
inline Positions locate_rows(const AttentionParams& p, const Source& from, bool in_place, const void* copy, int ld) {
  if (!in_place || !lie_as_tile(p, from)) return {true, copy, ld};
  return {true, at(p.dtype, from.view, from.batch, from.head, from.position),
          static_cast<int>(from.view.strides.position)};
}
inline Positions load_rows(const AttentionParams& p, const Products& products, const Source& from, int count,
                           bool in_place, void* copy, int ld) {
  const Positions result = locate_rows(p, from, in_place, copy, ld);
  if (result.data == copy) load_rows(p, products, from, count, copy, ld);
  return result;
}

// Rows of query or dy, the first factor of scores and dP.
inline Positions locate_first(const AttentionParams& p, const Source& from, int count, const void* copy, int ld) {
  return locate_rows(p, from, count <= kFewPositions, copy, ld);
}
inline Positions load_first(const AttentionParams& p, const Products& products, const Source& from, int count,
                            void* copy, int ld) {
  return load_rows(p, products, from, count, count <= kFewPositions, copy, ld);
}

// What `load_second` needs as a copy: a key block, `depth` numbers deep, transposed or in rows of `ld`.
inline int64_t positions_bytes(const Products& products, int64_t depth, int ld) {
  return std::max(int64_t{units(products, depth)} * kKeyLeading, int64_t{kKeyBlock} * ld) * products.unit_bytes;
}

// Keys or values, the second factor of scores and dP: transposed, or in rows.
//
// By the sequence and not by a task, whose rows depend on the number of threads: other sums round otherwise.
inline Positions locate_second(const AttentionParams& p, const Products& products, const Sequence& s,
                               const Source& from, const void* copy, int ld) {
  if (products.along > 1 || s.q_len > kFewRows) return {false, copy, kKeyLeading};
  return locate_rows(p, from, true, copy, ld);
}
inline Positions load_second(const AttentionParams& p, const Products& products, const Sequence& s, const Source& from,
                             int count, void* copy, int ld) {
  const Positions result = locate_second(p, products, s, from, copy, ld);
  if (!result.rows) {
    load_transposed(p, products, from, count, copy, kKeyLeading);
  } else if (result.data == copy) {
    load_rows(p, products, from, count, copy, ld);
  }
  return result;
}

// Values or keys, what weights are multiplied with for the output and dq: stacked, which of float32 is in rows.
inline Positions load_weighted(const AttentionParams& p, const Products& products, const Sequence& s,
                               const Source& from, int count, void* copy, int ld) {
  const bool few = s.q_len <= kFewRows || count <= kFewPositions;
  const Positions result = locate_rows(p, from, few, copy, ld);
  if (result.data == copy) load_stacked(p, products, from, count, copy, ld);
  return result;
}

// Rows of a strip times `keys` positions of its tile, `depth` numbers deep, to a tile of scores.
inline void multiply(const Microkernel& kernel, const Products& products, const Strip& strip, int keys, int64_t depth,
                     const Positions& rows, const Positions& positions, float* tile) {
  const int columns = strip.end - strip.begin;
  const void* first = unit(products, rows.data, int64_t{strip.row} * rows.ld);
  float* to = tile + strip.row * kKeyLeading + strip.begin;
  if (!positions.rows) {
    products.matmul(strip.rows, columns, units(products, depth), first, rows.ld, 1,
                    unit(products, positions.data, strip.begin), positions.ld, to, kKeyLeading, false);
    return;
  }
  const auto* from = static_cast<const float*>(positions.data) + int64_t{strip.begin} * positions.ld;
  const int count = std::min(strip.end, keys) - strip.begin;
  for (int r = 0; r < strip.rows; ++r, to += kKeyLeading) {
    kernel.dots(count, padded(depth), static_cast<const float*>(first) + int64_t{r} * rows.ld, from, positions.ld, to);
    std::fill(to + count, to + columns, 0.0f);
  }
}

// A float32 tile to which products are added; the first of them overwrites what was there.
struct Sum {
  float* data;
  int ld, columns;
  bool begun = false;

  Sum from(int64_t position) const { return {data + position * ld, ld, columns, begun}; }
  // Positions that have no part in the first product.
  void leave_out(int positions) const {
    if (begun) return;
    for (int n = 0; n < positions; ++n) std::fill_n(data + int64_t{n} * ld, columns, 0.0f);
  }
};

// Where a sum is made: at once where it belongs, if one product is all of it and it lies there as a tile.
inline Sum locate_sum(const AttentionParams& p, const View& view, int64_t columns, int64_t rope_columns, int64_t b,
                      int64_t head, int64_t position, bool one_product, float* tile, int ld) {
  const int whole = padded(columns + rope_columns);
  if (!one_product || rope_columns > 0 || !lie_as_tile(p, view.strides, columns)) return {tile, ld, whole};
  return {static_cast<float*>(at(p.dtype, view, b, head, position)), static_cast<int>(view.strides.position), whole};
}

}  // namespace ascendspeed::cpu
