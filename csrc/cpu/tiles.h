// What the forward and the backward share: block sizes, a bump allocator over scratch, and loading a mask tile.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "attention/params.h"
#include "cpu/microkernel.h"

namespace ascendspeed::cpu {

// A tile of scores is kRowBlock query rows by kKeyBlock keys: multiples of every register tile (6 or 12 rows, 16 or
// 32 columns) that keep a tile of scores, float32, in a first-level cache of 32 KiB.
constexpr int kRowBlock = 72;
constexpr int kKeyBlock = 96;
static_assert(kKeyBlock >= kRowBlock);  // the backward keeps a block of rows in a tile of keys
constexpr int kKeyLeading = leading(kKeyBlock);

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

// Rows [position, position + rows) of one head to tile rows of `ld` floats: the columns of `view`, then those of
// `rope`.
inline void load_rows(const AttentionParams& p, const Microkernel& kernel, const ConstView& view, int columns,
                      const ConstView& rope, int rope_columns, int64_t b, int64_t head, int64_t position, int rows,
                      float* tile, int ld) {
  kernel.load_rows(p.dtype, at(p.dtype, view, b, head, position), view.strides.position, view.strides.dim, rows,
                   columns, tile, ld);
  if (rope_columns == 0) return;
  for (int r = 0; r < rows; ++r) {  // one by one: the rest of each row is filled, which must not reach into the next
    kernel.load_rows(p.dtype, at(p.dtype, rope, b, head, position + r), 0, rope.strides.dim, 1, rope_columns,
                     tile + static_cast<int64_t>(r) * ld + columns, ld - columns);
  }
}

// Blocks of query (and query_rope) and of key (and key_rope), transposed for keys.
inline void load_query(const AttentionParams& p, const Microkernel& kernel, const Sequence& s, int64_t head,
                       int64_t row, int rows, float* tile, int ld) {
  const Geometry& g = p.geometry;
  load_rows(p, kernel, p.query, static_cast<int>(g.qk_dim), p.query_rope, static_cast<int>(g.rope_dim), s.index, head,
            s.q_begin + row, rows, tile, ld);
}
inline void load_key(const AttentionParams& p, const Microkernel& kernel, const Sequence& s, int64_t kv_head,
                     int64_t key, int keys, float* tile, int ld) {
  const Geometry& g = p.geometry;
  load_rows(p, kernel, p.key, static_cast<int>(g.qk_dim), p.key_rope, static_cast<int>(g.rope_dim), s.index, kv_head,
            s.kv_begin + key, keys, tile, ld);
}
inline void load_key_transposed(const AttentionParams& p, const Microkernel& kernel, const Sequence& s, int64_t kv_head,
                                int64_t key, int keys, float* tile) {
  const Geometry& g = p.geometry;
  const auto load = [&](const ConstView& view, int64_t columns, float* to) {
    kernel.load_transposed(p.dtype, at(p.dtype, view, s.index, kv_head, s.kv_begin + key), view.strides.position,
                           view.strides.dim, keys, static_cast<int>(columns), to, kKeyLeading);
  };
  load(p.key, g.qk_dim, tile);
  if (g.rope_dim > 0) load(p.key_rope, g.rope_dim, tile + g.qk_dim * kKeyLeading);
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
      kernel.load_rows(pse.dtype, offset(pse.dtype, pse.data, element), 0, plane.column, 1, columns, to, kKeyLeading);
    } else {
      const int64_t element = plane.origin + row * plane.row + tile.key * plane.column;
      kernel.load_rows(pse.dtype, offset(pse.dtype, pse.data, element), 0, plane.column, 1, tile.keys, to, kKeyLeading);
    }
    kernel.add_row(kKeyLeading, pse.before(p.scale), to, scores + r * kKeyLeading);
  }
  return pse.after(p.scale);
}

// Visible columns of row `r` of the tile; `mask` is the tile's from load_mask, or nullptr.
inline RowVisibility row_visibility(const AttentionParams& p, const Tile& tile, int r, const uint8_t* mask) {
  const Interval keys = visible_keys(p.sparsity, p.geometry, tile.sequence, tile.row + r);
  return {static_cast<int>(std::clamp<int64_t>(keys.begin - tile.key, 0, tile.keys)),
          static_cast<int>(std::clamp<int64_t>(keys.end - tile.key, 0, tile.keys)),
          mask == nullptr ? nullptr : mask + r * kKeyLeading};
}

}  // namespace ascendspeed::cpu
