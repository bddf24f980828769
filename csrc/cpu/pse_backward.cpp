// A task is one head and one block of keys, and one batch element where the pse tensor has a batch axis.
#include "cpu/pse_backward.h"

namespace ascendspeed::cpu {
namespace {

struct Task {
  int64_t b, batches, head, key;  // batch elements [b, b + batches) are summed
};

// With the tile's keys loaded, w.dpse += the gradients of the tile's scores, or their sum over rows where the pse
// tensor has no row axis.
void add_tile(const BackwardTile& t, const BackwardWorkspace& w, const Tile& tile) {
  const float grad_scale = t.p.pse.type == kInsideScale ? t.p.scale : 1.0f;
  const Interval seen = visible_keys_of_rows(t.p.sparsity, t.g, tile.b, tile.row, tile.row + tile.rows);
  if (!seen.meets({tile.key, tile.key + tile.keys})) return;
  if (!t.gradients(w, tile, grad_scale)) return;
  for (int r = 0; r < tile.rows; ++r) {
    const float* from = w.dp + r * kKeyLeading;
    float* to = w.dpse + (t.p.dpse.per_row ? r * kKeyLeading : 0);
    t.kernel.add_row(padded(tile.keys), 1.0f, from, to);
  }
}

void run_task(const BackwardTile& t, const BackwardWorkspace& w, const Task& task) {
  const BackwardParams& p = t.p;
  const int keys = t.keys_at(task.key);
  const int64_t rows_of_dpse = p.dpse.per_row ? t.g.q_len : 1;
  const auto store = [&](int64_t row, int rows) {
    const int64_t origin = ((p.dpse.per_batch ? task.b : 0) * t.g.heads + task.head) * rows_of_dpse;
    t.kernel.store_rows(p.dtype, w.dpse, kKeyLeading, rows, keys, nullptr,
                        offset(p.dtype, p.dpse.data, (origin + row) * t.g.kv_len + task.key), t.g.kv_len, 1);
  };
  std::fill_n(w.dpse, int64_t{kRowBlock} * kKeyLeading, 0.0f);
  const int64_t kv_head = task.head / t.g.group();
  if (task.batches == 1) t.load_keys(w, task.b, kv_head, task.key);
  for (int64_t row = 0; row < t.g.q_len; row += kRowBlock) {
    for (int64_t b = task.b; b < task.b + task.batches; ++b) {
      if (task.batches > 1) t.load_keys(w, b, kv_head, task.key);
      add_tile(t, w, {b, task.head, row, task.key, t.rows_at(row), keys});
    }
    if (!p.dpse.per_row) continue;
    store(row, t.rows_at(row));
    std::fill_n(w.dpse, int64_t{kRowBlock} * kKeyLeading, 0.0f);
  }
  if (!p.dpse.per_row) store(0, 1);
}

}  // namespace

void pse_backward(const BackwardTile& backward, const Parallel& parallel, void* workspaces) {
  const BackwardParams& p = backward.p;
  const Geometry& g = p.geometry;
  const int64_t batches = p.dpse.per_batch ? g.batch : 1, key_blocks = ceil_div(g.kv_len, kKeyBlock);
  const auto make_workspace = [&](int thread) { return BackwardWorkspace::at(workspaces, thread, g); };
  for_each_task(parallel, batches * g.heads * key_blocks, make_workspace,
                [&](const BackwardWorkspace& w, int64_t task) {
                  run_task(backward, w,
                           {task / key_blocks / g.heads, p.dpse.per_batch ? 1 : g.batch, task / key_blocks % g.heads,
                            task % key_blocks * kKeyBlock});
                });
}

}  // namespace ascendspeed::cpu
