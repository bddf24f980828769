// One tile of the backward: probabilities and the gradients of scores, recomputed from query, key and statistics.
//
// Shared by flash_backward.cpp (dq, dk, dv) and pse_backward.cpp (dpse).
#pragma once

#include "cpu/microkernel.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {

// One thread's tiles.
struct BackwardWorkspace {
  BackwardWorkspace(const Geometry& g, Scratch& scratch)
      : query_ld(leading(g.score_dim())),
        value_ld(leading(g.v_dim)),
        key_transposed(scratch.take<float>(g.score_dim() * kKeyLeading)),
        value_transposed(scratch.take<float>(g.v_dim * kKeyLeading)),
        key(scratch.take<float>(int64_t{kKeyBlock} * query_ld)),
        dk(scratch.take<float>(int64_t{kKeyBlock} * query_ld)),
        dv(scratch.take<float>(int64_t{kKeyBlock} * value_ld)),
        query(scratch.take<float>(int64_t{kRowBlock} * query_ld)),
        dy(scratch.take<float>(int64_t{kRowBlock} * value_ld)),
        scores(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        dp(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        shift(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        dpse(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        mask(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)),
        keep(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)) {}

  // The workspace of one thread, in memory that has room for bytes() for each.
  static BackwardWorkspace at(void* workspaces, int thread, const Geometry& g) {
    Scratch mine(static_cast<char*>(workspaces) + thread * bytes(g));
    return BackwardWorkspace(g, mine);
  }
  static int64_t bytes(const Geometry& g) {
    Scratch counter(nullptr);
    BackwardWorkspace workspace(g, counter);
    return counter.used();
  }

  int query_ld, value_ld;
  float *key_transposed, *value_transposed, *key, *dk, *dv, *query, *dy, *scores, *dp, *shift, *dpse;
  uint8_t *mask, *keep;
};

// Loads and stores, and the tile itself.
class BackwardTile {
 public:
  // delta: the sum over Dv of dy * attention_in for each row, numbered as row_index says.
  BackwardTile(const BackwardParams& params, const float* delta)
      : p(params), g(params.geometry), kernel(active_microkernel()), delta_(delta) {}

  static int rows_at(const Sequence& s, int64_t row) {
    return static_cast<int>(std::min<int64_t>(kRowBlock, s.q_len - row));
  }
  static int keys_at(const Sequence& s, int64_t key) {
    return static_cast<int>(std::min<int64_t>(kKeyBlock, s.kv_len - key));
  }
  // Rows one after the other: sequences, heads, rows.
  int64_t row_index(const Sequence& s, int64_t head, int64_t row) const {
    return s.rows_before * g.heads + head * s.q_len + row;
  }

  // What gradients() needs of a block of keys.
  void load_keys(const BackwardWorkspace& w, const Sequence& s, int64_t kv_head, int64_t key) const {
    load_key_transposed(p, kernel, s, kv_head, key, keys_at(s, key), w.key_transposed);
    kernel.load_transposed(p.dtype, at(p.dtype, p.value, s.index, kv_head, s.kv_begin + key), p.value.strides.position,
                           p.value.strides.dim, keys_at(s, key), static_cast<int>(g.v_dim), w.value_transposed,
                           kKeyLeading);
  }

  // Loads query and dy of the tile. Leaves P, dropped out as the output saw it, in w.scores, and
  // grad_scale * P * (dP - delta) in w.dp. False, and neither is written, when the mask excludes the whole tile.
  bool gradients(const BackwardWorkspace& w, const Tile& tile, float grad_scale) const {
    const uint8_t* mask = nullptr;
    if (p.mask.data != nullptr) {
      if (!load_mask(p.mask, tile, w.mask)) return false;
      mask = w.mask;
    }
    const Sequence& s = tile.sequence;
    load_query(p, kernel, s, tile.head, tile.row, tile.rows, w.query, w.query_ld);
    load(p.dy, s, tile.head, tile.row, tile.rows, w.dy, w.value_ld);
    const int columns = padded(tile.keys);
    kernel.matmul(tile.rows, columns, static_cast<int>(g.score_dim()), w.query, w.query_ld, 1, w.key_transposed,
                  kKeyLeading, w.scores, kKeyLeading, false);
    kernel.matmul(tile.rows, columns, static_cast<int>(g.v_dim), w.dy, w.value_ld, 1, w.value_transposed, kKeyLeading,
                  w.dp, kKeyLeading, false);
    const float scale = add_pse(p, kernel, tile, w.scores, w.shift);
    if (p.dropout.active) load_keep(p, kernel, tile, w.keep);
    const int64_t first = row_index(s, tile.head, tile.row);
    for (int r = 0; r < tile.rows; ++r) {
      if (p.dropout.active) drop(w, r, columns, w.dp);
      const int64_t lanes = p.statistic(s, tile.head, tile.row + r) * kStatLanes;
      kernel.softmax_grad_row(columns, scale, grad_scale, row_visibility(p, tile, r, mask), p.softmax_max[lanes],
                              1.0f / p.softmax_sum[lanes], delta_[first + r], w.scores + r * kKeyLeading,
                              w.dp + r * kKeyLeading);
      if (p.dropout.active) drop(w, r, columns, w.scores);
    }
    return true;
  }

  // Rows of dy or attention_in.
  void load(const ConstView& view, const Sequence& s, int64_t head, int64_t row, int rows, float* tile, int ld) const {
    kernel.load_rows(p.dtype, at(p.dtype, view, s.index, head, s.q_begin + row), view.strides.position,
                     view.strides.dim, rows, static_cast<int>(g.v_dim), tile, ld);
  }
  // Columns [0, columns) of tile rows to positions of one head.
  void store(const float* tile, int ld, int rows, int64_t columns, const View& view, int64_t b, int64_t head,
             int64_t position) const {
    kernel.store_rows(p.dtype, tile, ld, rows, static_cast<int>(columns), nullptr, at(p.dtype, view, b, head, position),
                      view.strides.position, view.strides.dim);
  }
  // Tile rows as wide as a score is deep, to the gradients of query or key and of what lies beside it.
  void store_with_rope(const float* tile, int ld, int rows, const View& view, const View& rope, int64_t b, int64_t head,
                       int64_t position) const {
    store(tile, ld, rows, g.qk_dim, view, b, head, position);
    if (g.rope_dim > 0) store(tile + g.qk_dim, ld, rows, g.rope_dim, rope, b, head, position);
  }

  const BackwardParams& p;
  const Geometry& g;
  const Microkernel& kernel;

 private:
  void drop(const BackwardWorkspace& w, int row, int columns, float* tile) const {
    kernel.drop_row(columns, p.dropout.keep_factor, w.keep + row * kKeyLeading, tile + row * kKeyLeading);
  }

  const float* delta_;
};

}  // namespace ascendspeed::cpu
