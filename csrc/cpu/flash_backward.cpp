// Blocks of keys are shared out to threads in a fixed order; each walks the query rows that may see them.
//
// dk and dv of a block belong to one thread. dq is the sum over key blocks: each row block has a turn counter that
// names the key block whose share comes next. Threads take key blocks in ascending order from one queue, so the
// block everybody waits for is always being worked on and waiting cannot deadlock.
#include "cpu/flash_backward.h"

#include <atomic>
#include <cmath>
#include <new>
#include <thread>

#include "cpu/backward_tile.h"
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
Interval key_blocks(const BackwardParams& p, int64_t b, int64_t row, int64_t rows) {
  const Interval keys = visible_keys_of_rows(p.sparsity, p.geometry, b, row, row + rows);
  if (keys.empty()) return {0, 0};
  return {keys.begin / kKeyBlock, ceil_div(keys.end, kKeyBlock)};
}

// What threads share. dq is float32 for the few key/value heads in work at a time: a slot is reused when all key
// blocks of the head that had it are done.
struct Shared {
  Shared(const BackwardParams& p, int threads, Scratch& scratch)
      : row_blocks(ceil_div(p.geometry.q_len, kRowBlock)),
        kv_blocks(ceil_div(p.geometry.kv_len, kKeyBlock)),
        kv_heads(p.geometry.batch * p.geometry.kv_heads),
        slots(std::min<int64_t>(kv_heads, threads + 1)),
        dq_tile(int64_t{kRowBlock} * leading(p.geometry.qk_dim)),
        dq(scratch.take<float>(slots * p.geometry.group() * row_blocks * dq_tile)),
        delta(scratch.take<float>(p.geometry.batch * p.geometry.heads * p.geometry.q_len)),
        dsink(scratch.take<float>(p.sink == nullptr ? 0 : p.geometry.batch * p.geometry.heads * row_blocks)),
        turns(scratch.take<Counter>(kv_heads * p.geometry.group() * row_blocks)),
        blocks_done(scratch.take<Counter>(kv_heads)) {}

  static int64_t bytes(const BackwardParams& p, int threads) {
    Scratch counter(nullptr);
    Shared shared(p, threads, counter);
    return counter.used();
  }

  int64_t row_blocks, kv_blocks, kv_heads, slots, dq_tile;
  float* dq;       // [slots][group][row_blocks][kRowBlock x leading(D)]
  float* delta;    // [B, N, Sq]: sum over Dv of dy * attention_in
  float* dsink;    // [B, N, row_blocks]: shares of the gradient of the sinks
  Counter* turns;  // [B, N, row_blocks]: the key block whose share of dq comes next
  Counter* blocks_done;
};

class Backward : public BackwardTile {
 public:
  Backward(const BackwardParams& params, const Shared& shared) : BackwardTile(params, shared.delta), s(shared) {}

  // Turn counters, delta, sinks, and zeros for rows that see no key. One row block of one query head.
  void prepare_rows(const BackwardWorkspace& w, int64_t task) const {
    const int64_t b = task / s.row_blocks / g.heads, head = task / s.row_blocks % g.heads;
    const int64_t row = task % s.row_blocks * kRowBlock;
    const int rows = rows_at(row);
    const Interval blocks = key_blocks(p, b, row, rows);
    new (&s.turns[task]) Counter(static_cast<int32_t>(blocks.begin));
    const int64_t first = (b * g.heads + head) * g.q_len + row;
    load(p.dy, b, head, row, rows, g.v_dim, w.dy, w.value_ld);
    load(p.attention_in, b, head, row, rows, g.v_dim, w.dv, w.value_ld);  // dv is not in use yet
    float dsink = 0.0f;
    for (int r = 0; r < rows; ++r) {
      const float delta = kernel.dot(padded(g.v_dim), w.dy + int64_t{r} * w.value_ld, w.dv + int64_t{r} * w.value_ld);
      s.delta[first + r] = delta;
      if (p.sink == nullptr) continue;
      const float max = p.softmax_max[(first + r) * kStatLanes], sum = p.softmax_sum[(first + r) * kStatLanes];
      dsink -= std::exp(p.sink[head] - max) / sum * delta;
    }
    if (p.sink != nullptr) s.dsink[task] = dsink;
    if (blocks.empty()) {
      std::fill_n(w.query, int64_t{rows} * w.query_ld, 0.0f);
      store(w.query, w.query_ld, rows, g.qk_dim, p.dq, b, head, row);
    }
  }

  // The shares of each head's sink, batch elements and then row blocks in ascending order.
  void sum_sinks() const {
    for (int64_t head = 0; head < g.heads; ++head) {
      float sum = 0.0f;
      for (int64_t b = 0; b < g.batch; ++b) {
        for (int64_t i = 0; i < s.row_blocks; ++i) sum += s.dsink[(b * g.heads + head) * s.row_blocks + i];
      }
      p.dsink[head] = sum;
    }
  }

  // dk and dv of one block of keys, and its share of dq.
  void key_block(const BackwardWorkspace& w, int64_t kv_head_index, int64_t block) const {
    const int64_t b = kv_head_index / g.kv_heads, kv_head = kv_head_index % g.kv_heads;
    const int64_t key = block * kKeyBlock;
    const int keys = keys_at(key);
    if (kv_head_index >= s.slots) {
      wait_for(s.blocks_done[kv_head_index - s.slots], static_cast<int32_t>(s.kv_blocks));
    }
    load_keys(w, b, kv_head, key);
    load(p.key, b, kv_head, key, keys, g.qk_dim, w.key, w.query_ld);
    std::fill_n(w.dk, int64_t{keys} * w.query_ld, 0.0f);
    std::fill_n(w.dv, int64_t{keys} * w.value_ld, 0.0f);
    for (int64_t member = 0; member < g.group(); ++member) {
      const int64_t head = kv_head * g.group() + member;
      for (int64_t row_block = 0; row_block < s.row_blocks; ++row_block) {
        const int64_t row = row_block * kRowBlock;
        const Interval blocks = key_blocks(p, b, row, rows_at(row));
        if (block < blocks.begin || block >= blocks.end) continue;
        const int64_t slot = kv_head_index % s.slots;
        float* dq = s.dq + ((slot * g.group() + member) * s.row_blocks + row_block) * s.dq_tile;
        row_tile(w, {b, head, row, key, rows_at(row), keys}, blocks, static_cast<int32_t>(block), dq);
      }
    }
    store(w.dk, w.query_ld, keys, g.qk_dim, p.dk, b, kv_head, key);
    store(w.dv, w.value_ld, keys, g.v_dim, p.dv, b, kv_head, key);
    s.blocks_done[kv_head_index].fetch_add(1, std::memory_order_release);
  }

 private:
  void row_tile(const BackwardWorkspace& w, const Tile& tile, const Interval& blocks, int32_t block, float* dq) const {
    const bool visible = gradients(w, tile, p.scale);
    if (visible) {
      // dv += P^T dy and dk += dS^T q: the transpose is only a matter of strides.
      kernel.matmul(tile.keys, padded(g.v_dim), tile.rows, w.scores, 1, kKeyLeading, w.dy, w.value_ld, w.dv, w.value_ld,
                    true);
      kernel.matmul(tile.keys, padded(g.qk_dim), tile.rows, w.dp, 1, kKeyLeading, w.query, w.query_ld, w.dk, w.query_ld,
                    true);
    }
    Counter& turn = s.turns[(tile.b * g.heads + tile.head) * s.row_blocks + tile.row / kRowBlock];
    wait_for(turn, block);
    const bool first = block == blocks.begin;
    if (visible) {
      kernel.matmul(tile.rows, padded(g.qk_dim), tile.keys, w.dp, kKeyLeading, 1, w.key, w.query_ld, dq, w.query_ld,
                    !first);
    } else if (first) {
      std::fill_n(dq, int64_t{tile.rows} * w.query_ld, 0.0f);
    }
    if (block == blocks.end - 1) store(dq, w.query_ld, tile.rows, g.qk_dim, p.dq, tile.b, tile.head, tile.row);
    turn.store(block + 1, std::memory_order_release);
  }

  const Shared& s;
};

}  // namespace

int64_t backward_scratch_bytes(const BackwardParams& p, int threads) {
  return Shared::bytes(p, threads) + threads * BackwardWorkspace::bytes(p.geometry);
}

void flash_backward(const BackwardParams& p, const Parallel& parallel, void* scratch) {
  Scratch shared_scratch(scratch);
  const Shared shared(p, parallel.threads, shared_scratch);
  for (int64_t i = 0; i < shared.kv_heads; ++i) new (&shared.blocks_done[i]) Counter(0);
  const Backward backward(p, shared);
  char* workspaces = static_cast<char*>(scratch) + shared_scratch.used();
  const auto make_workspace = [&](int thread) { return BackwardWorkspace::at(workspaces, thread, p.geometry); };
  for_each_task(parallel, p.geometry.batch * p.geometry.heads * shared.row_blocks, make_workspace,
                [&](const BackwardWorkspace& w, int64_t task) { backward.prepare_rows(w, task); });
  if (p.dsink != nullptr) backward.sum_sinks();
  for_each_task(parallel, shared.kv_heads * shared.kv_blocks, make_workspace,
                [&](const BackwardWorkspace& w, int64_t task) {
                  backward.key_block(w, task / shared.kv_blocks, task % shared.kv_blocks);
                });
  if (p.dpse.data != nullptr) pse_backward(backward, parallel, workspaces);
}

}  // namespace ascendspeed::cpu
