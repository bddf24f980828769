// Keys and values as the second factor of a product: copied as Products wants them, or where they lie.
//
// For few rows a transpose takes longer than all products with it, and so may a copy.
#pragma once

#include "cpu/microkernel.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {

constexpr int kFewRows = 4;  // of a sequence

// `rows`: positions one after the other, a position `ld` floats after the one before; else transposed or stacked.
struct Positions {
  bool rows;
  const void* data;
  int ld;
};

// What `load_positions` needs as a copy: a key block, `depth` numbers deep, transposed or in rows of `ld`.
inline int64_t positions_bytes(const Products& products, int64_t depth, int ld) {
  return std::max(int64_t{units(products, depth)} * kKeyLeading, int64_t{kKeyBlock} * ld) * products.unit_bytes;
}

// Where `load_positions` and `load_values` have them, in `copy` or not. `ld`: of a copy in rows.
//
// By the sequence and not by a task, whose rows depend on the number of threads: other sums round otherwise.
inline Positions locate(const AttentionParams& p, const Products& products, const Sequence& s, const Source& from,
                        const void* copy, int ld) {
  if (products.along > 1 || s.q_len > kFewRows) return {false, copy, kKeyLeading};
  const Strides& strides = from.view.strides;
  const bool as_a_tile = p.dtype == DType::kFloat32 && strides.dim == 1 && from.columns % kTileAlign == 0 &&
                         from.rope_columns == 0 && strides.position == static_cast<int>(strides.position);
  if (!as_a_tile) return {true, copy, ld};
  return {true, at(p.dtype, from.view, from.batch, from.head, from.position), static_cast<int>(strides.position)};
}

// The second factor of scores and of dP: transposed, or in rows.
inline Positions load_positions(const AttentionParams& p, const Products& products, const Sequence& s,
                                const Source& from, int count, void* copy, int ld) {
  const Positions result = locate(p, products, s, from, copy, ld);
  if (!result.rows) {
    load_transposed(p, products, from, count, copy, kKeyLeading);
  } else if (result.data == copy) {
    load_rows(p, products, from, count, copy, ld);
  }
  return result;
}

// That of the output and of dq: stacked, which of float32 is in rows.
inline Positions load_values(const AttentionParams& p, const Products& products, const Sequence& s, const Source& from,
                             int count, void* copy, int ld) {
  const Positions result = locate(p, products, s, from, copy, ld);
  if (result.data != copy) return result;
  load_stacked(p, products, from, count, copy, ld);
  return {result.rows, copy, ld};
}

// Rows of a strip times `keys` positions of its tile, `depth` numbers deep, to a tile of scores.
inline void multiply(const Microkernel& kernel, const Products& products, const Strip& strip, int keys, int64_t depth,
                     const void* rows, int rows_ld, const Positions& positions, float* tile) {
  const int columns = strip.end - strip.begin;
  const void* first = unit(products, rows, int64_t{strip.row} * rows_ld);
  float* to = tile + strip.row * kKeyLeading + strip.begin;
  if (!positions.rows) {
    products.matmul(strip.rows, columns, units(products, depth), first, rows_ld, 1,
                    unit(products, positions.data, strip.begin), positions.ld, to, kKeyLeading, false);
    return;
  }
  const auto* from = static_cast<const float*>(positions.data) + int64_t{strip.begin} * positions.ld;
  const int count = std::min(strip.end, keys) - strip.begin;
  for (int r = 0; r < strip.rows; ++r, to += kKeyLeading) {
    kernel.dots(count, padded(depth), static_cast<const float*>(first) + r * rows_ld, from, positions.ld, to);
    std::fill(to + count, to + columns, 0.0f);
  }
}

}  // namespace ascendspeed::cpu
