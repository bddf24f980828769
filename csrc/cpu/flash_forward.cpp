// Blocks of query rows are shared out to threads; each walks the keys it may see with the online softmax.
//
// A thread holds several row blocks at once, so that a tile of key and value is converted to float32 (and the key
// transposed) once for all of them.
#include "cpu/flash_forward.h"

#include <cfloat>

#include "cpu/microkernel.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {
namespace {

constexpr int kMostRowBlocks = 4;

// Row blocks a thread holds: fewer where heads are large (its second-level cache) or work is scarce.
int row_blocks_per_task(const ForwardParams& p, int threads) {
  const Geometry& g = p.geometry;
  int blocks = g.qk_dim <= 128 ? kMostRowBlocks : g.qk_dim <= 256 ? 2 : 1;
  while (blocks > 1 && g.batch * g.heads * ceil_div(g.q_len, blocks * kRowBlock) < 4 * threads) blocks /= 2;
  return blocks;
}

struct Workspace {
  Workspace(const Geometry& g, int blocks, Scratch& scratch)
      : query_ld(leading(g.qk_dim)),
        value_ld(leading(g.v_dim)),
        query(scratch.take<float>(int64_t{blocks} * kRowBlock * query_ld)),
        out(scratch.take<float>(int64_t{blocks} * kRowBlock * value_ld)),
        key_transposed(scratch.take<float>(g.qk_dim * kKeyLeading)),
        value(scratch.take<float>(int64_t{kKeyBlock} * value_ld)),
        scores(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        shift(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        stats(scratch.take<RowStats>(int64_t{blocks} * kRowBlock)),
        factors(scratch.take<float>(int64_t{blocks} * kRowBlock)),
        mask(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)),
        keep(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)) {}

  int query_ld, value_ld;
  float *query, *out, *key_transposed, *value, *scores, *shift;
  RowStats* stats;
  float* factors;
  uint8_t *mask, *keep;
};

int64_t workspace_bytes(const Geometry& g, int blocks) {
  Scratch counter(nullptr);
  Workspace workspace(g, blocks, counter);
  return counter.used();
}

// Scores of one row block against one tile of keys, and their share of the output.
void attend(const ForwardParams& p, const Microkernel& kernel, const Workspace& w, const Tile& tile, int block) {
  const Geometry& g = p.geometry;
  const int first = block * kRowBlock;
  float* out = w.out + int64_t{first} * w.value_ld;
  const uint8_t* mask = nullptr;
  if (p.mask.data != nullptr) {
    if (!load_mask(p.mask, tile, w.mask)) return;
    mask = w.mask;
  }
  const int columns = padded(tile.keys);
  kernel.matmul(tile.rows, columns, static_cast<int>(g.qk_dim), w.query + int64_t{first} * w.query_ld, w.query_ld, 1,
                w.key_transposed, kKeyLeading, w.scores, kKeyLeading, false);
  const float scale = add_pse(p, kernel, tile, w.scores, w.shift);
  if (p.dropout.active) load_keep(p, kernel, tile, w.keep);
  for (int r = 0; r < tile.rows; ++r) {
    const float rescale = kernel.softmax_row(columns, scale, row_visibility(p, tile, r, mask),
                                             w.scores + r * kKeyLeading, &w.stats[first + r]);
    // After the row sum: dropout does not change the normalisation.
    if (p.dropout.active) {
      kernel.drop_row(columns, p.dropout.keep_factor, w.keep + r * kKeyLeading, w.scores + r * kKeyLeading);
    }
    if (rescale != 1.0f) kernel.scale_row(padded(g.v_dim), rescale, out + int64_t{r} * w.value_ld);
  }
  kernel.matmul(tile.rows, padded(g.v_dim), tile.keys, w.scores, kKeyLeading, 1, w.value, w.value_ld, out, w.value_ld,
                true);
}

void finish_rows(const ForwardParams& p, const Microkernel& kernel, const Workspace& w, int64_t b, int64_t head,
                 int64_t row, int rows) {
  const Geometry& g = p.geometry;
  float* max_out = p.softmax_max + ((b * g.heads + head) * g.q_len + row) * kStatLanes;
  float* sum_out = p.softmax_sum + ((b * g.heads + head) * g.q_len + row) * kStatLanes;
  for (int r = 0; r < rows; ++r) {
    const bool saw_nothing = w.stats[r].sum == 0.0f;
    w.factors[r] = saw_nothing ? 0.0f : 1.0f / w.stats[r].sum;
    std::fill_n(max_out + r * kStatLanes, kStatLanes, saw_nothing ? -FLT_MAX : w.stats[r].max);
    std::fill_n(sum_out + r * kStatLanes, kStatLanes, saw_nothing ? FLT_MAX : w.stats[r].sum);
  }
  kernel.store_rows(p.dtype, w.out, w.value_ld, rows, static_cast<int>(g.v_dim), w.factors,
                    at(p.dtype, p.attention_out, b, head, row), p.attention_out.strides.position,
                    p.attention_out.strides.dim);
}

void forward_rows(const ForwardParams& p, const Microkernel& kernel, const Workspace& w, int64_t b, int64_t head,
                  int64_t row, int rows) {
  const Geometry& g = p.geometry;
  const int64_t kv_head = head / g.group();
  kernel.load_rows(p.dtype, at(p.dtype, p.query, b, head, row), p.query.strides.position, p.query.strides.dim, rows,
                   static_cast<int>(g.qk_dim), w.query, w.query_ld);
  std::fill_n(w.out, int64_t{rows} * w.value_ld, 0.0f);
  // A sink is one more score, with weight and without value: every row starts from it.
  std::fill_n(w.stats, rows, p.sink == nullptr ? RowStats{-__builtin_inff(), 0.0f} : RowStats{p.sink[head], 1.0f});

  const Interval all = visible_keys_of_rows(p.sparsity, g, b, row, row + rows);
  for (int64_t key = all.begin / kKeyBlock * kKeyBlock; key < all.end; key += kKeyBlock) {
    const int keys = static_cast<int>(std::min<int64_t>(kKeyBlock, g.kv_len - key));
    kernel.load_transposed(p.dtype, at(p.dtype, p.key, b, kv_head, key), p.key.strides.position, p.key.strides.dim,
                           keys, static_cast<int>(g.qk_dim), w.key_transposed, kKeyLeading);
    kernel.load_rows(p.dtype, at(p.dtype, p.value, b, kv_head, key), p.value.strides.position, p.value.strides.dim,
                     keys, static_cast<int>(g.v_dim), w.value, w.value_ld);
    for (int block = 0; block * kRowBlock < rows; ++block) {
      const int64_t first = row + block * kRowBlock;
      const int count = std::min(kRowBlock, rows - block * kRowBlock);
      const Interval seen = visible_keys_of_rows(p.sparsity, g, b, first, first + count);
      if (!seen.meets({key, key + keys})) continue;
      attend(p, kernel, w, {b, head, first, key, count, keys}, block);
    }
  }
  finish_rows(p, kernel, w, b, head, row, rows);
}

}  // namespace

int64_t forward_scratch_bytes(const ForwardParams& p, int threads) {
  return threads * workspace_bytes(p.geometry, row_blocks_per_task(p, threads));
}

void flash_forward(const ForwardParams& p, const Parallel& parallel, void* scratch) {
  const Geometry& g = p.geometry;
  const Microkernel& kernel = active_microkernel();
  const int blocks = row_blocks_per_task(p, parallel.threads);
  const int64_t rows_per_task = int64_t{blocks} * kRowBlock;
  const int64_t tasks_per_head = ceil_div(g.q_len, rows_per_task);
  const int64_t tasks = g.batch * g.heads * tasks_per_head;
  const int64_t bytes = workspace_bytes(g, blocks);
  const auto make_workspace = [&](int thread) {
    Scratch mine(static_cast<char*>(scratch) + thread * bytes);
    return Workspace(g, blocks, mine);
  };
  for_each_task(parallel, tasks, make_workspace, [&](const Workspace& workspace, int64_t task) {
    const int64_t head = task / tasks_per_head;
    // Later rows first: under a causal mask they are the long ones, and the short ones fill the gaps at the end.
    const int64_t row = (tasks_per_head - 1 - task % tasks_per_head) * rows_per_task;
    forward_rows(p, kernel, workspace, head / g.heads, head % g.heads, row,
                 static_cast<int>(std::min(rows_per_task, g.q_len - row)));
  });
}

}  // namespace ascendspeed::cpu
