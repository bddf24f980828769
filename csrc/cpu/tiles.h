// What the forward and the backward share: block sizes, a bump allocator over scratch, and loading a mask tile.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "attention/params.h"
#include "cpu/microkernel.h"

namespace ascendspeed::cpu {

// A tile of scores is kRowBlock query rows by kKeyBlock keys: multiples of every register tile (6, 12 or 16 rows, 16 or
// 32 columns), large enough that what is done once for each tile hardly counts, small enough for a second-level cache.
constexpr int kRowBlock = 96;
constexpr int kKeyBlock = 96;
static_assert(kKeyBlock >= kRowBlock);  // the backward keeps a block of rows in a tile of keys
constexpr int kKeyLeading = leading(kKeyBlock);
constexpr int kLeastStrip = 6;  // of any Products::strip

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Hands out cache-line-aligned pieces of memory that somebody else owns; on a null base it only counts.
class Scratch {
 public:
  explicit Scratch(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), kAlign) * kAlign;
    return piece;
  }
  int64_t used() const { return used_; }

  static constexpr int64_t kAlign = 64;

 private:
  char* base_;
  int64_t used_ = 0;
};

inline const void* offset(DType dtype, const void* data, int64_t elements) {
  return static_cast<const char*>(data) + elements * (dtype == DType::kFloat32 ? 4 : 2);
}
inline void* offset(DType dtype, void* data, int64_t elements) {
  return const_cast<void*>(offset(dtype, static_cast<const void*>(data), elements));
}

// Address of [b, head, position, 0]; in packed tensors the position counts along T.
inline const void* at(DType dtype, const ConstView& view, int64_t b, int64_t head, int64_t position) {
  const Strides& s = view.strides;
  return offset(dtype, view.data, b * s.batch + head * s.head + position * s.position);
}
inline void* at(DType dtype, const View& view, int64_t b, int64_t head, int64_t position) {
  return const_cast<void*>(at(dtype, ConstView{view.data, view.strides}, b, head, position));
}

// A piece of the score matrix: rows [row, row + rows), keys [key, key + keys) of a sequence and query head.
struct Tile {
  const Sequence& sequence;
  int64_t head, row, key;
  int rows, keys;
};

// The instructions for this problem's products. A unit of several numbers must not lie partly in query and partly in
// query_rope.
inline const Products& products_of(const AttentionParams& p, const Microkernel& kernel) {
  const bool fits =
      kernel.bfloat16 != nullptr && (p.geometry.rope_dim == 0 || p.geometry.qk_dim % kernel.bfloat16->along == 0);
  return p.dtype == DType::kBFloat16 && fits ? *kernel.bfloat16 : kernel.float32;
}

// Numbers along the depth of a product, in units.
inline int units(const Products& products, int64_t numbers) {
  return static_cast<int>(ceil_div(numbers, products.along));
}
inline const void* unit(const Products& products, const void* operand, int64_t index) {
  return static_cast<const char*>(operand) + index * products.unit_bytes;
}
inline void* unit(const Products& products, void* operand, int64_t index) {
  return const_cast<void*>(unit(products, static_cast<const void*>(operand), index));
}

// Where an operand comes from: a view of query, key, value or dy, and what lies beside it in a head. Positions count
// from the beginning of the sequence.
struct Source {
  const ConstView& view;
  int64_t columns;
  const ConstView& rope;
  int64_t rope_columns;
  int64_t batch, head, position;
};
inline Source query_source(const AttentionParams& p, const Sequence& s, int64_t head, int64_t row) {
  const Geometry& g = p.geometry;
  return {p.query, g.qk_dim, p.query_rope, g.rope_dim, s.index, head, s.q_begin + row};
}
inline Source key_source(const AttentionParams& p, const Sequence& s, int64_t kv_head, int64_t key) {
  const Geometry& g = p.geometry;
  return {p.key, g.qk_dim, p.key_rope, g.rope_dim, s.index, kv_head, s.kv_begin + key};
}
inline Source value_source(const AttentionParams& p, const Sequence& s, int64_t kv_head, int64_t key) {
  return {p.value, p.geometry.v_dim, p.value, 0, s.index, kv_head, s.kv_begin + key};
}
inline Source row_source(const AttentionParams& p, const ConstView& view, const Sequence& s, int64_t head,
                         int64_t row) {
  return {view, p.geometry.v_dim, view, 0, s.index, head, s.q_begin + row};
}

// `rows` positions to an operand whose units lie along the head; ld in units.
inline void load_rows(const AttentionParams& p, const Products& products, const Source& from, int rows, void* to,
                      int ld) {
  const auto load = [&](const ConstView& view, int64_t columns, int first, int count, void* out, int width) {
    products.load_rows(p.dtype, at(p.dtype, view, from.batch, from.head, from.position + first), view.strides.position,
                       view.strides.dim, count, static_cast<int>(columns), out, width);
  };
  load(from.view, from.columns, 0, rows, to, ld);
  if (from.rope_columns == 0) return;
  const int beside = units(products, from.columns);
  for (int r = 0; r < rows; ++r) {  // one by one: the rest of each row is filled, which must not reach into the next
    load(from.rope, from.rope_columns, r, 1, unit(products, to, int64_t{r} * ld + beside), ld - beside);
  }
}

// The same, transposed: a line of `ld` units, one for each position, for each unit along the head.
inline void load_transposed(const AttentionParams& p, const Products& products, const Source& from, int rows, void* to,
                            int ld) {
  const auto load = [&](const ConstView& view, int64_t columns, void* out) {
    products.load_transposed(p.dtype, at(p.dtype, view, from.batch, from.head, from.position), view.strides.position,
                             view.strides.dim, rows, static_cast<int>(columns), out, ld);
  };
  load(from.view, from.columns, to);
  if (from.rope_columns == 0) return;
  load(from.rope, from.rope_columns, unit(products, to, int64_t{units(products, from.columns)} * ld));
}

// Units along the positions: a line of `ld` units, one for each number of the head.
inline void load_stacked(const AttentionParams& p, const Products& products, const Source& from, int rows, void* to,
                         int ld) {
  const auto load = [&](const ConstView& view, int64_t columns, int first, int count, void* out, int width) {
    products.load_stacked(p.dtype, at(p.dtype, view, from.batch, from.head, from.position + first),
                          view.strides.position, view.strides.dim, count, static_cast<int>(columns), out, width);
  };
  load(from.view, from.columns, 0, rows, to, ld);
  if (from.rope_columns == 0) return;
  for (int r = 0; r < rows; r += products.along) {
    void* out = unit(products, to, int64_t{r / products.along} * ld + from.columns);
    load(from.rope, from.rope_columns, r, std::min(products.along, rows - r), out, ld - static_cast<int>(from.columns));
  }
}

// Copies the mask of a tile to contiguous rows of kKeyLeading bytes. False when every byte of it excludes, so that
// the caller can skip the tile.
inline bool load_mask(const MaskView& mask, const Tile& tile, uint8_t* bytes) {
  uint8_t all = 1;
  for (int r = 0; r < tile.rows; ++r) {
    const uint8_t* from = mask.data + tile.sequence.index * mask.batch + tile.head * mask.head +
                          (tile.row + r) * mask.row + tile.key * mask.column;
    uint8_t* to = bytes + r * kKeyLeading;
    for (int c = 0; c < tile.keys; ++c) {
      to[c] = from[c * mask.column] != 0;
      all &= to[c];
    }
    std::fill(to + tile.keys, to + kKeyLeading, uint8_t{1});
  }
  return all == 0;
}

// Which probabilities of a tile dropout keeps: rows of kKeyLeading bytes, 1 = kept, 0 beyond the tile's keys.
inline void load_keep(const AttentionParams& p, const Microkernel& kernel, const Tile& tile, uint8_t* keep) {
  const Sequence& s = tile.sequence;
  const int64_t plane = p.geometry.heads * s.scores_before + tile.head * s.q_len * s.kv_len;
  for (int r = 0; r < tile.rows; ++r) {
    const uint64_t first = static_cast<uint64_t>(plane + (tile.row + r) * s.kv_len + tile.key);
    uint8_t* to = keep + r * kKeyLeading;
    if (p.dropout.bits == nullptr) {
      kernel.generate_keep(p.dropout.seed, p.dropout.offset, p.dropout.most, first, tile.keys, to);
    } else {
      for (int c = 0; c < tile.keys; ++c) to[c] = p.dropout.bits[(first + c) / 8] >> ((first + c) % 8) & 1;
    }
    std::fill(to + tile.keys, to + kKeyLeading, uint8_t{0});
  }
}

// Adds the position shift to the raw products of a tile; returns the factor that is still to be applied to the sum.
// `shift` is a tile like `scores`.
inline float add_pse(const AttentionParams& p, const Microkernel& kernel, const Tile& tile, float* scores,
                     float* shift) {
  const Pse& pse = p.pse;
  if (pse.data == nullptr) return p.scale;
  const PsePlane plane = pse.planes.plane(tile.sequence, tile.head, p.geometry.heads);
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.row + r;
    float* to = shift + r * kKeyLeading;
    if (is_generated(pse.type)) {
      const float slope = static_cast<const float*>(pse.data)[plane.origin];
      kernel.distance_row(kKeyLeading, -slope, tile.key - row + pse.shift_of(tile.sequence), pse.type == kRootDistance,
                          to);
    } else if (pse.compressed) {
      // A shift of i - j: row 0 moved along j; what would lie past its end belongs to keys after the row's own.
      const int64_t first_stored = tile.sequence.q_len - kPseCompressedRows;
      const int64_t stored = std::max<int64_t>(row - first_stored, 0), moved = std::max<int64_t>(first_stored - row, 0);
      const int columns = static_cast<int>(std::clamp<int64_t>(row + 1 - tile.key, 0, tile.keys));
      const int64_t element = plane.origin + stored * plane.row + (tile.key + moved) * plane.column;
      kernel.float32.load_rows(pse.dtype, offset(pse.dtype, pse.data, element), 0, plane.column, 1, columns, to,
                               kKeyLeading);
    } else {
      const int64_t element = plane.origin + row * plane.row + tile.key * plane.column;
      kernel.float32.load_rows(pse.dtype, offset(pse.dtype, pse.data, element), 0, plane.column, 1, tile.keys, to,
                               kKeyLeading);
    }
    kernel.add_row(kKeyLeading, pse.before(p.scale), to, scores + r * kKeyLeading);
  }
  return pse.after(p.scale);
}

// Rows [row, row + rows) of a tile, and the columns [begin, end) that hold every key one of them may see; both are
// multiples of kTileAlign, and equal where there is no such key.
struct Strip {
  int row, rows, begin, end;
  bool empty() const { return begin >= end; }
};

// A tile in strips. One on the edge of what is visible is cut into strips as high as a register tile, so that hardly
// more is computed than is seen; one inside is a single strip.
class Strips {
 public:
  Strips(const Visibility& visible, const Tile& tile, int height) : tile_(tile), visible_(visible) {
    // Both ends of the interval grow with the row.
    inside_ = row(tile.rows - 1, nullptr).begin == 0 && row(0, nullptr).end == tile.keys;
    if (inside_) height = tile.rows;
    for (int first = 0; first < tile.rows; first += height) {
      const int rows = std::min(height, tile.rows - first);
      const int begin = row(first, nullptr).begin, end = row(first + rows - 1, nullptr).end;
      strips_[count_++] =
          begin < end ? Strip{first, rows, begin / kTileAlign * kTileAlign, padded(end)} : Strip{first, rows, 0, 0};
    }
  }

  // Whether every row may see every key; a mask may still exclude some.
  bool inside() const { return inside_; }
  // Visible columns of row `r` of the tile; `mask` is the tile's from load_mask, or nullptr.
  RowVisibility row(int r, const uint8_t* mask) const {
    const Interval keys = visible_.row(tile_.row + r);
    return {static_cast<int>(std::clamp<int64_t>(keys.begin - tile_.key, 0, tile_.keys)),
            static_cast<int>(std::clamp<int64_t>(keys.end - tile_.key, 0, tile_.keys)),
            mask == nullptr ? nullptr : mask + r * kKeyLeading};
  }

  const Strip* begin() const { return strips_; }
  const Strip* end() const { return strips_ + count_; }

  // Rows [begin, end) of the strips that hold one of the columns [first, last).
  Interval rows_of(int first, int last) const {
    int64_t from = tile_.rows, to = 0;
    for (const Strip& strip : *this) {
      if (strip.empty() || strip.begin >= last || strip.end <= first) continue;
      from = std::min<int64_t>(from, strip.row);
      to = strip.row + strip.rows;
    }
    return {from, to};
  }

 private:
  const Tile& tile_;
  Visibility visible_;
  int count_ = 0;
  bool inside_;
  Strip strips_[kRowBlock / kLeastStrip + 1];
};

}  // namespace ascendspeed::cpu
