// Blocks of keys are shared out to threads in a fixed order; each walks the query rows that may see them.
//
// dk and dv of a block belong to one thread. dq is the sum over key blocks: each row block has a turn counter that
// names the key block whose share comes next, and a slot of dq that an earlier head may still hold. Threads take key
// blocks in ascending order from one queue and wait for lower numbers alone, so what everybody waits for is always
// being worked on and waiting cannot deadlock.
#include "cpu/flash_backward.h"

#include <atomic>
#include <cmath>
#include <new>
#include <thread>

#include "cpu/backward_tile.h"
#include "cpu/blocks.h"
#include "cpu/pse_backward.h"

namespace ascendspeed::cpu {
namespace {

using Counter = std::atomic<int32_t>;

void wait_for(const Counter& counter, int32_t value) {
  for (int spins = 0; counter.load(std::memory_order_acquire) != value; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
}

// Key blocks [begin, end) that rows [row, row + rows) may see.
Interval key_blocks(const Visibility& visible, int64_t row, int64_t rows) {
  const Interval keys = visible.rows(row, row + rows);
  if (keys.empty()) return {0, 0};
  return {keys.begin / kKeyBlock, ceil_div(keys.end, kKeyBlock)};
}

// How dq, the sum over key blocks, is made while dk and dv are. In float32 for the query heads of a few key/value heads
// at a time, each in a slot; or, where not even one of them fits in what the scratch may take, in a sweep of its own
// that computes the scores once more.
struct Plan {
  Plan(const BackwardParams& p, int threads) {
    const Geometry& g = p.geometry;
    dq_tile = int64_t{kRowBlock} * leading(g.score_dim());
    dq_slot = g.group() * ceil_div(g.q_len, kRowBlock) * dq_tile;
    const int64_t fitting = threads * p.sum_bytes_per_thread / (dq_slot * static_cast<int64_t>(sizeof(float)));
    slots = std::min({fitting, g.batch * g.kv_heads, int64_t{threads} + 1});
  }

  bool separate() const { return slots == 0; }

  int64_t dq_tile, dq_slot;
  int64_t slots;  // key/value heads in work at a time; 0: a sweep of its own
};

// What threads share. A slot of dq is reused when all key blocks of the head that had it are done.
struct Shared {
  Shared(const BackwardParams& p, int threads, Scratch& scratch)
      : plan(p, threads),
        rows(p.geometry, p.geometry.heads, Axis::kRows, kRowBlock, scratch),
        keys(p.geometry, p.geometry.kv_heads, Axis::kKeys, kKeyBlock, scratch),
        kv_heads(p.geometry.batch * p.geometry.kv_heads),
        dq(scratch.take<float>(plan.slots * plan.dq_slot)),
        delta(scratch.take<float>(p.geometry.end().rows_before * p.geometry.heads)),
        dsink(scratch.take<float>(p.sink == nullptr ? 0 : rows.total())),
        turns(scratch.take<Counter>(rows.total())),
        blocks_done(scratch.take<Counter>(kv_heads)) {}

  static int64_t bytes(const BackwardParams& p, int threads) {
    Scratch counter(nullptr);
    Shared shared(p, threads, counter);
    return counter.used();
  }

  Plan plan;
  Blocks rows, keys;  // of query heads, of key/value heads
  int64_t kv_heads;
  float* dq;       // [slots][group][row blocks][kRowBlock x leading(D)]
  float* delta;    // numbered by BackwardTile::row_index: sum over Dv of dy * attention_in
  float* dsink;    // for each row block: its share of the gradient of the sink
  Counter* turns;  // for each row block: the key block whose share of dq comes next
  Counter* blocks_done;
};

class Backward : public BackwardTile {
 public:
  Backward(const BackwardParams& params, const Shared& shared) : BackwardTile(params, shared.delta), s_(shared) {}

  // Turn counters, delta, sinks, and zeros for rows that see no key. One row block of one query head.
  void prepare_rows(const BackwardWorkspace& w, int64_t task) const {
    const auto [s, head, block] = s_.rows.locate(task);
    const int64_t row = block * kRowBlock;
    const int rows = rows_at(s, row);
    const Interval blocks = key_blocks(visible_in(s), row, rows);
    new (&s_.turns[task]) Counter(static_cast<int32_t>(blocks.begin));
    const int64_t first = row_index(s, head, row);
    const Positions dy = load(p.dy, s, head, row, rows, w.dy, w.value_ld);
    const Positions out = load(p.attention_in, s, head, row, rows, w.dv, w.value_ld);  // dv is not in use yet
    const auto numbers = [](const Positions& of, int r) {
      return static_cast<const float*>(of.data) + int64_t{r} * of.ld;
    };
    float dsink = 0.0f;
    for (int r = 0; r < rows; ++r) {
      float delta;
      kernel.dots(1, padded(g.v_dim), numbers(dy, r), numbers(out, r), 0, &delta);
      s_.delta[first + r] = delta;
      if (p.sink == nullptr || s.kv_len == 0) continue;
      const int64_t lanes = p.statistic(s, head, row + r) * kStatLanes;
      dsink -= std::exp(p.sink[head] - p.softmax_max[lanes]) / p.softmax_sum[lanes] * delta;
    }
    if (p.sink != nullptr) s_.dsink[task] = dsink;
    if (blocks.empty()) {
      std::fill_n(w.query, int64_t{rows} * w.query_ld, 0.0f);
      store_with_rope(w.query, w.query_ld, rows, p.dq, p.dq_rope, s.index, head, s.q_begin + row);
    }
  }

  // The shares of each head's sink, batch elements and then row blocks in ascending order.
  void sum_sinks() const {
    for (int64_t head = 0; head < g.heads; ++head) {
      float sum = 0.0f;
      for (int64_t b = 0; b < g.batch; ++b) {
        const Sequence s = g.sequence(b);
        for (int64_t i = 0; i < s_.rows.of(s); ++i) sum += s_.dsink[s_.rows.first(s, head) + i];
      }
      p.dsink[head] = sum;
    }
  }

  // dk and dv of one block of keys, and its share of dq unless that has a sweep of its own.
  void key_block(const BackwardWorkspace& w, int64_t task) const {
    const auto [s, kv_head, block] = s_.keys.locate(task);
    const int64_t key = block * kKeyBlock, kv_head_index = s.index * g.kv_heads + kv_head;
    const int keys = keys_at(s, key);
    const Plan& plan = s_.plan;
    float* slot = nullptr;
    Positions weighted{};
    if (!plan.separate()) {
      wait_for_slot(kv_head_index - plan.slots);
      slot = s_.dq + kv_head_index % plan.slots * plan.dq_slot;
      weighted = load_weighted(p, products, s, key_source(p, s, kv_head, key), keys, w.key_stacked, w.query_ld);
    }
    load_keys(w, s, kv_head, key);
    const Visibility visible = visible_in(s);
    const int64_t row_blocks = s_.rows.of(s), position = s.kv_begin + key;
    const bool one_tile = g.group() * row_blocks == 1;
    Sum dk = locate_sum(p, p.dk, g.qk_dim, g.rope_dim, s.index, kv_head, position, one_tile, w.dk, w.query_ld);
    Sum dv = locate_sum(p, p.dv, g.v_dim, 0, s.index, kv_head, position, one_tile, w.dv, w.value_ld);
    for (int64_t member = 0; member < g.group(); ++member) {
      for (int64_t row_block = 0; row_block < row_blocks; ++row_block) {
        const int64_t row = row_block * kRowBlock;
        const Interval blocks = key_blocks(visible, row, rows_at(s, row));
        if (block < blocks.begin || block >= blocks.end) continue;
        const Tile tile{s, kv_head * g.group() + member, row, key, rows_at(s, row), keys};
        const Strips strips = strips_of(visible, tile);
        const bool seen = add_to_keys(w, tile, strips, &dk, &dv);
        if (plan.separate()) continue;
        add_to_rows(w, weighted, tile, strips, seen, blocks, block,
                    slot + (member * row_blocks + row_block) * plan.dq_tile);
      }
    }
    dk.leave_out(keys);
    dv.leave_out(keys);
    if (dk.data == w.dk) store_with_rope(w.dk, w.query_ld, keys, p.dk, p.dk_rope, s.index, kv_head, position);
    if (dv.data == w.dv) store(w.dv, w.value_ld, keys, g.v_dim, p.dv, s.index, kv_head, position);
    s_.blocks_done[kv_head_index].fetch_add(1, std::memory_order_release);
  }

  // The sweep of its own: dq of one block of rows, over key blocks in the same order.
  void row_block(const BackwardWorkspace& w, int64_t task) const {
    const auto [s, head, row_block] = s_.rows.locate(task);
    const int64_t row = row_block * kRowBlock, kv_head = head / g.group();
    const int rows = rows_at(s, row);
    const Visibility visible = visible_in(s);
    const Interval blocks = key_blocks(visible, row, rows);
    if (blocks.empty()) return;                       // prepare_rows wrote zeros
    Sum dq{w.dk, w.query_ld, padded(g.score_dim())};  // kKeyBlock >= kRowBlock, and dk is not in use any more
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const int64_t key = block * kKeyBlock;
      const Tile tile{s, head, row, key, rows, keys_at(s, key)};
      load_keys(w, s, kv_head, key);
      const Positions weighted =
          load_weighted(p, products, s, key_source(p, s, kv_head, key), tile.keys, w.key_stacked, w.query_ld);
      const Strips strips = strips_of(visible, tile);
      if (gradients(w, tile, strips, p.scale)) add_product(w, weighted, tile, strips, &dq);
    }
    dq.leave_out(rows);
    store_with_rope(dq.data, dq.ld, rows, p.dq, p.dq_rope, s.index, head, s.q_begin + row);
  }

 private:
  // Until the key/value head that had the slot before is done with it. One without key blocks leaves it to whoever had
  // it earlier.
  void wait_for_slot(int64_t kv_head_index) const {
    for (; kv_head_index >= 0; kv_head_index -= s_.plan.slots) {
      const int64_t blocks = s_.keys.of(g.sequence(kv_head_index / g.kv_heads));
      if (blocks == 0) continue;
      wait_for(s_.blocks_done[kv_head_index], static_cast<int32_t>(blocks));
      return;
    }
  }

  // False where the mask excludes the whole tile. dv += P^T dy and dk += dS^T q: the transpose is only a matter of
  // strides.
  bool add_to_keys(const BackwardWorkspace& w, const Tile& tile, const Strips& strips, Sum* dk, Sum* dv) const {
    if (!gradients(w, tile, strips, p.scale)) return false;
    Positions query{true, w.query_stacked, w.query_ld}, dy{true, w.dy_stacked, w.value_ld};
    if (products.along == 1) {
      query = locate_first(p, query_of(tile), tile.rows, w.query, w.query_ld);
      dy = locate_first(p, dy_of(tile), tile.rows, w.dy, w.value_ld);
    } else {
      const int columns = padded(tile.keys);
      load_stacked(p, products, query_of(tile), tile.rows, w.query_stacked, w.query_ld);
      load_stacked(p, products, dy_of(tile), tile.rows, w.dy_stacked, w.value_ld);
      products.pack_stacked(tile.rows, columns, w.scores, kKeyLeading, w.p_stacked, kKeyLeading);
      products.pack_stacked(tile.rows, columns, w.dp, kKeyLeading, w.ds_stacked, kKeyLeading);
    }
    const int step = strips.inside() ? tile.keys : products.strip;
    for (int key = 0; key < tile.keys; key += step) {
      const int keys = std::min(step, tile.keys - key);
      const Interval rows = strips.rows_of(key, key + keys);
      if (rows.empty()) {
        dk->from(key).leave_out(keys);
        dv->from(key).leave_out(keys);
        continue;
      }
      const int64_t line = rows.begin / products.along;
      const int depth = units(products, rows.end - rows.begin);
      const auto add = [&](const void* weights, const Positions& operand, const Sum& to) {
        products.matmul(keys, to.columns, depth, unit(products, weights, line * kKeyLeading + key), 1, kKeyLeading,
                        unit(products, operand.data, line * operand.ld), operand.ld, to.data, to.ld, to.begun);
      };
      add(w.p_stacked, dy, dv->from(key));
      add(w.ds_stacked, query, dk->from(key));
    }
    dk->begun = dv->begun = true;
    return true;
  }

  // The tile's share of dq, when it is its key block's turn.
  void add_to_rows(const BackwardWorkspace& w, const Positions& keys, const Tile& tile, const Strips& strips, bool seen,
                   const Interval& blocks, int64_t block, float* dq) const {
    const Sequence& s = tile.sequence;
    const int64_t position = s.q_begin + tile.row;
    Counter& turn = s_.turns[s_.rows.first(s, tile.head) + tile.row / kRowBlock];
    wait_for(turn, static_cast<int32_t>(block));
    const bool first = block == blocks.begin, last = block == blocks.end - 1;
    Sum sum = locate_sum(p, p.dq, g.qk_dim, g.rope_dim, s.index, tile.head, position, first && last, dq, w.query_ld);
    sum.begun = !first;
    if (seen) add_product(w, keys, tile, strips, &sum);
    sum.leave_out(tile.rows);
    if (last && sum.data == dq) store_with_rope(dq, sum.ld, tile.rows, p.dq, p.dq_rope, s.index, tile.head, position);
    turn.store(static_cast<int32_t>(block) + 1, std::memory_order_release);
  }

  // dq += dS k.
  void add_product(const BackwardWorkspace& w, const Positions& keys, const Tile& tile, const Strips& strips,
                   Sum* dq) const {
    for (const Strip& strip : strips) {
      const Sum rows = dq->from(strip.row);
      if (strip.empty()) {
        rows.leave_out(strip.rows);
        continue;
      }
      const int64_t first = int64_t{strip.row} * w.ds_units + strip.begin / products.along;
      if (products.along > 1) {
        products.pack_rows(strip.rows, strip.end - strip.begin, w.dp + strip.row * kKeyLeading + strip.begin,
                           kKeyLeading, unit(products, w.ds_rows, first), w.ds_units);
      }
      products.matmul(strip.rows, rows.columns, units(products, std::min(strip.end, tile.keys) - strip.begin),
                      unit(products, w.ds_rows, first), w.ds_units, 1,
                      unit(products, keys.data, int64_t{strip.begin / products.along} * keys.ld), keys.ld, rows.data,
                      rows.ld, rows.begun);
    }
    dq->begun = true;
  }

  const Shared& s_;
};

}  // namespace

int64_t backward_scratch_bytes(const BackwardParams& p, int threads) {
  return Shared::bytes(p, threads) +
         threads * BackwardWorkspace::bytes(p.geometry, products_of(p, active_microkernel())) +
         pse_scratch_bytes(p, threads);
}

void flash_backward(const BackwardParams& p, const Parallel& parallel, void* scratch) {
  Scratch shared_scratch(scratch);
  const Shared shared(p, parallel.threads, shared_scratch);
  for (int64_t i = 0; i < shared.kv_heads; ++i) new (&shared.blocks_done[i]) Counter(0);
  const Backward backward(p, shared);
  char* workspaces = static_cast<char*>(scratch) + shared_scratch.used();
  const auto make_workspace = [&](int thread) {
    return BackwardWorkspace::at(workspaces, thread, p.geometry, backward.products);
  };
  for_each_task(parallel, shared.rows.total(), make_workspace,
                [&](const BackwardWorkspace& w, int64_t task) { backward.prepare_rows(w, task); });
  if (p.dsink != nullptr) backward.sum_sinks();
  for_each_task(parallel, shared.keys.total(), make_workspace,
                [&](const BackwardWorkspace& w, int64_t task) { backward.key_block(w, task); });
  if (shared.plan.separate()) {
    for_each_task(parallel, shared.rows.total(), make_workspace,
                  [&](const BackwardWorkspace& w, int64_t task) { backward.row_block(w, task); });
  }
  if (p.dpse.data == nullptr) return;
  pse_backward(backward, parallel, workspaces,
               workspaces + parallel.threads * BackwardWorkspace::bytes(p.geometry, backward.products));
}

}  // namespace ascendspeed::cpu
