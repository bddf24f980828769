// One tile of the backward: probabilities and the gradients of scores, recomputed from query, key and statistics.
//
// Shared by flash_backward.cpp (dq, dk, dv) and pse_backward.cpp (dpse).
#pragma once

#include "cpu/microkernel.h"
#include "cpu/positions.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {

// One thread's tiles.
struct BackwardWorkspace {
  BackwardWorkspace(const Geometry& g, const Products& q, Scratch& scratch)
      : query_ld(leading(g.score_dim())),
        value_ld(leading(g.v_dim)),
        query_units(leading(units(q, g.score_dim()))),
        value_units(leading(units(q, g.v_dim))),
        ds_units(q.along == 1 ? kKeyLeading : leading(units(q, kKeyBlock))),
        key(scratch.take<char>(positions_bytes(q, g.score_dim(), query_ld))),
        value(scratch.take<char>(positions_bytes(q, g.v_dim, value_ld))),
        key_stacked(scratch.take<char>(int64_t{units(q, kKeyBlock)} * query_ld * q.unit_bytes)),
        dk(scratch.take<float>(int64_t{kKeyBlock} * query_ld)),
        dv(scratch.take<float>(int64_t{kKeyBlock} * value_ld)),
        query(scratch.take<float>(int64_t{kRowBlock} * std::max(query_ld, query_units * q.unit_bytes / 4))),
        dy(scratch.take<float>(int64_t{kRowBlock} * std::max(value_ld, value_units * q.unit_bytes / 4))),
        scores(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        dp(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        shift(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        dpse(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        query_stacked(query),
        dy_stacked(dy),
        p_stacked(scores),
        ds_stacked(dp),
        ds_rows(dp),
        mask(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)),
        keep(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)) {
    if (q.along == 1) return;
    const int64_t lines = units(q, kRowBlock);
    query_stacked = scratch.take<char>(lines * query_ld * q.unit_bytes);
    dy_stacked = scratch.take<char>(lines * value_ld * q.unit_bytes);
    p_stacked = scratch.take<char>(lines * kKeyLeading * q.unit_bytes);
    ds_stacked = scratch.take<char>(lines * kKeyLeading * q.unit_bytes);
    ds_rows = scratch.take<char>(int64_t{kRowBlock} * ds_units * q.unit_bytes);
  }

  // The workspace of one thread, in memory that has room for bytes() for each.
  static BackwardWorkspace at(void* workspaces, int thread, const Geometry& g, const Products& products) {
    Scratch mine(static_cast<char*>(workspaces) + thread * bytes(g, products));
    return BackwardWorkspace(g, products, mine);
  }
  static int64_t bytes(const Geometry& g, const Products& products) {
    Scratch counter(nullptr);
    BackwardWorkspace workspace(g, products, counter);
    return counter.used();
  }

  int query_ld, value_ld;                  // of float32 tiles as wide as a head
  int query_units, value_units, ds_units;  // of operands whose units lie along a row
  char *key, *value, *key_stacked;         // operands, of positions.h
  float *dk, *dv;
  float *query, *dy;  // operands, in memory that has room for a float32 tile, which is smaller where heads are
  float *scores, *dp, *shift, *dpse;
  void *query_stacked, *dy_stacked, *p_stacked, *ds_stacked, *ds_rows;  // operands; float32 tiles themselves serve
  uint8_t *mask, *keep;
};

// Loads and stores, and the tile itself.
class BackwardTile {
 public:
  // delta: the sum over Dv of dy * attention_in for each row, numbered as row_index says.
  BackwardTile(const BackwardParams& params, const float* delta)
      : p(params),
        g(params.geometry),
        kernel(active_microkernel()),
        products(products_of(params, kernel)),
        delta_(delta) {}

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
    load_second(p, products, s, key_source(p, s, kv_head, key), keys_at(s, key), w.key, w.query_ld);
    load_second(p, products, s, value_source(p, s, kv_head, key), keys_at(s, key), w.value, w.value_ld);
  }

  Visibility visible_in(const Sequence& s) const { return Visibility(p.sparsity, g, s); }
  // They refer to the tile.
  Strips strips_of(const Visibility& visible, const Tile& tile) const { return Strips(visible, tile, products.strip); }

  Source query_of(const Tile& tile) const { return query_source(p, tile.sequence, tile.head, tile.row); }
  Source dy_of(const Tile& tile) const { return row_source(p, p.dy, tile.sequence, tile.head, tile.row); }

  // Loads query and dy of the tile. Leaves P, dropped out as the output saw it, in w.scores, and
  // grad_scale * P * (dP - delta) in w.dp. False, and neither is written, when the mask excludes the whole tile.
  bool gradients(const BackwardWorkspace& w, const Tile& tile, const Strips& strips, float grad_scale) const {
    const uint8_t* mask = nullptr;
    if (p.mask.data != nullptr) {
      if (!load_mask(p.mask, tile, w.mask)) return false;
      mask = w.mask;
    }
    const Sequence& s = tile.sequence;
    const Positions query = load_first(p, products, query_of(tile), tile.rows, w.query, w.query_units);
    const Positions dy = load_first(p, products, dy_of(tile), tile.rows, w.dy, w.value_units);
    const int64_t kv_head = tile.head / g.group();
    const Positions key = locate_second(p, products, s, key_source(p, s, kv_head, tile.key), w.key, w.query_ld);
    const Positions value = locate_second(p, products, s, value_source(p, s, kv_head, tile.key), w.value, w.value_ld);
    for (const Strip& strip : strips) {
      if (strip.empty()) continue;
      multiply(kernel, products, strip, tile.keys, g.score_dim(), query, key, w.scores);
      multiply(kernel, products, strip, tile.keys, g.v_dim, dy, value, w.dp);
    }
    const float scale = add_pse(p, kernel, tile, w.scores, w.shift);
    if (p.dropout.active) load_keep(p, kernel, tile, w.keep);
    for (const Strip& strip : strips) {
      for (int r = strip.row; r < strip.row + strip.rows; ++r) {
        clear_outside(strip, padded(tile.keys), w.scores + r * kKeyLeading);
        clear_outside(strip, padded(tile.keys), w.dp + r * kKeyLeading);
        if (!strip.empty()) gradients_of_row(w, tile, strips, strip, r, scale, grad_scale, mask);
      }
    }
    return true;
  }

  // Rows of dy or attention_in to be read once, in float32 whatever the products take.
  Positions load(const ConstView& view, const Sequence& s, int64_t head, int64_t row, int rows, float* tile,
                 int ld) const {
    return load_rows(p, kernel.float32, row_source(p, view, s, head, row), rows, true, tile, ld);
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
  const Products& products;

 private:
  static void clear_outside(const Strip& strip, int columns, float* row) {
    std::fill(row, row + strip.begin, 0.0f);
    if (strip.end < columns) std::fill(row + strip.end, row + columns, 0.0f);
  }
  void gradients_of_row(const BackwardWorkspace& w, const Tile& tile, const Strips& strips, const Strip& strip, int r,
                        float scale, float grad_scale, const uint8_t* mask) const {
    const int64_t statistic = p.statistic(tile.sequence, tile.head, tile.row + r) * kStatLanes;
    const int columns = strip.end - strip.begin, first = r * kKeyLeading + strip.begin;
    const auto drop = [&](float* row) {
      if (p.dropout.active) kernel.drop_row(columns, p.dropout.keep_factor, w.keep + first, row);
    };
    RowVisibility visible{0, tile.keys, nullptr};
    if (!strips.inside() || mask != nullptr) visible = strips.row(r, mask).from(strip.begin);
    drop(w.dp + first);
    kernel.softmax_grad_row(columns, scale, grad_scale, visible, p.softmax_max[statistic],
                            1.0f / p.softmax_sum[statistic], delta_[row_index(tile.sequence, tile.head, tile.row + r)],
                            w.scores + first, w.dp + first);
    drop(w.scores + first);
  }

  const float* delta_;
};

}  // namespace ascendspeed::cpu
