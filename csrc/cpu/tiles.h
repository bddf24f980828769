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

// Address of [b, head, position, 0].
inline const void* at(DType dtype, const ConstView& view, int64_t b, int64_t head, int64_t position) {
  const Strides& s = view.strides;
  return offset(dtype, view.data, b * s.batch + head * s.head + position * s.position);
}
inline void* at(DType dtype, const View& view, int64_t b, int64_t head, int64_t position) {
  return const_cast<void*>(at(dtype, ConstView{view.data, view.strides}, b, head, position));
}

// A piece of the score matrix: rows [row, row + rows), keys [key, key + keys) of batch b, query head n.
struct Tile {
  int64_t b, head, row, key;
  int rows, keys;
};

// Copies the mask of a tile to contiguous rows of kKeyLeading bytes. False when every byte of it excludes, so that
// the caller can skip the tile.
inline bool load_mask(const MaskView& mask, const Tile& tile, uint8_t* bytes) {
  uint8_t all = 1;
  for (int r = 0; r < tile.rows; ++r) {
    const uint8_t* from =
        mask.data + tile.b * mask.batch + tile.head * mask.head + (tile.row + r) * mask.row + tile.key * mask.column;
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
  const Geometry& g = p.geometry;
  for (int r = 0; r < tile.rows; ++r) {
    const uint64_t first =
        static_cast<uint64_t>(((tile.b * g.heads + tile.head) * g.q_len + tile.row + r) * g.kv_len + tile.key);
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
  const int64_t origin = tile.b * pse.batch + tile.head * pse.head;
  for (int r = 0; r < tile.rows; ++r) {
    const int64_t row = tile.row + r;
    float* to = shift + r * kKeyLeading;
    if (is_generated(pse.type)) {
      const float slope = static_cast<const float*>(pse.data)[origin];
      kernel.distance_row(kKeyLeading, -slope, tile.key - row + pse.shift, pse.type == kRootDistance, to);
    } else if (pse.compressed) {
      // A shift of i - j: row 0 moved along j; what would lie past its end belongs to keys after the row's own.
      const int64_t first_stored = p.geometry.q_len - kPseCompressedRows;
      const int64_t stored = std::max<int64_t>(row - first_stored, 0), moved = std::max<int64_t>(first_stored - row, 0);
      const int columns = static_cast<int>(std::clamp<int64_t>(row + 1 - tile.key, 0, tile.keys));
      const void* from = offset(pse.dtype, pse.data, origin + stored * pse.row + (tile.key + moved) * pse.column);
      kernel.load_rows(pse.dtype, from, 0, pse.column, 1, columns, to, kKeyLeading);
    } else {
      const void* from = offset(pse.dtype, pse.data, origin + row * pse.row + tile.key * pse.column);
      kernel.load_rows(pse.dtype, from, 0, pse.column, 1, tile.keys, to, kKeyLeading);
    }
    kernel.add_row(kKeyLeading, pse.before(p.scale), to, scores + r * kKeyLeading);
  }
  return pse.after(p.scale);
}

// Visible columns of row `r` of the tile; `mask` is the tile's from load_mask, or nullptr.
inline RowVisibility row_visibility(const AttentionParams& p, const Tile& tile, int r, const uint8_t* mask) {
  const Interval keys = visible_keys(p.sparsity, p.geometry, tile.b, tile.row + r);
  return {static_cast<int>(std::clamp<int64_t>(keys.begin - tile.key, 0, tile.keys)),
          static_cast<int>(std::clamp<int64_t>(keys.end - tile.key, 0, tile.keys)),
          mask == nullptr ? nullptr : mask + r * kKeyLeading};
}

}  // namespace ascendspeed::cpu
