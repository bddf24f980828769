// Blocks of query rows are shared out to threads; each walks the keys it may see with the online softmax.
//
// A thread holds several row blocks at once, so that a tile of key and value is converted to float32 (and the key
// transposed) once for all of them.
#include "cpu/flash_forward.h"

#include <cfloat>

#include "cpu/blocks.h"
#include "cpu/microkernel.h"
#include "cpu/positions.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {
namespace {

constexpr int kMostRowBlocks = 4;

// Tasks of one call: `blocks` row blocks of a query head, or fewer at the end of a sequence.
Blocks task_blocks(const ForwardParams& p, int blocks, Scratch& scratch) {
  return Blocks(p.geometry, p.geometry.heads, Axis::kRows, int64_t{blocks} * kRowBlock, scratch);
}

// Row blocks a thread holds: fewer where heads are large (its second-level cache) or work is scarce.
int row_blocks_per_task(const ForwardParams& p, int threads) {
  const int64_t dim = p.geometry.score_dim();
  int blocks = dim <= 128 ? kMostRowBlocks : dim <= 256 ? 2 : 1;
  Scratch counter(nullptr);
  while (blocks > 1 && task_blocks(p, blocks, counter).total() < 4 * threads) blocks /= 2;
  return blocks;
}

struct Workspace {
  Workspace(const Geometry& g, const Products& q, int blocks, Scratch& scratch)
      : query_ld(leading(units(q, g.score_dim()))),
        value_ld(leading(g.v_dim)),
        weights_ld(q.along == 1 ? kKeyLeading : leading(units(q, kKeyBlock))),
        query(scratch.take<char>(int64_t{blocks} * kRowBlock * query_ld * q.unit_bytes)),
        key(scratch.take<char>(positions_bytes(q, g.score_dim(), query_ld))),
        value(scratch.take<char>(int64_t{units(q, kKeyBlock)} * value_ld * q.unit_bytes)),
        out(scratch.take<float>(int64_t{blocks} * kRowBlock * value_ld)),
        scores(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        weights(q.along == 1 ? nullptr : scratch.take<char>(int64_t{kRowBlock} * weights_ld * q.unit_bytes)),
        shift(scratch.take<float>(int64_t{kRowBlock} * kKeyLeading)),
        stats(scratch.take<RowStats>(int64_t{blocks} * kRowBlock)),
        factors(scratch.take<float>(int64_t{blocks} * kRowBlock)),
        mask(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)),
        keep(scratch.take<uint8_t>(int64_t{kRowBlock} * kKeyLeading)) {}

  int query_ld, value_ld, weights_ld;
  char *query, *key, *value;  // operands; key is transposed, for few rows row by row; value stacked
  float *out, *scores;
  char* weights;  // the scores' exponentials as an operand, where the tile itself is not
  float* shift;
  RowStats* stats;
  float* factors;
  uint8_t *mask, *keep;
};

int64_t workspace_bytes(const Geometry& g, const Products& products, int blocks) {
  Scratch counter(nullptr);
  Workspace workspace(g, products, blocks, counter);
  return counter.used();
}

// What a tile of scores and its share of the output are made of.
struct Factors {
  Positions query, key, value;
};

// What one thread works with.
struct Context {
  const ForwardParams& p;
  const Microkernel& kernel;
  const Products& products;
  const Workspace& w;
};

// The scores of a strip become exp(score - max); what was summed up so far moves to the new maximum.
void soften(const Context& c, const Tile& tile, const Strips& strips, const Strip& strip, float scale,
            const uint8_t* mask, RowStats* stats, const Sum& out) {
  const ForwardParams& p = c.p;
  const int columns = strip.end - strip.begin;
  float* const scores = c.w.scores + strip.row * kKeyLeading + strip.begin;
  RowVisibility visible[kRowBlock];
  const bool all = strips.inside() && mask == nullptr && columns == tile.keys;
  for (int r = 0; r < strip.rows && !all; ++r) {
    visible[r] = strips.row(strip.row + r, mask).from(strip.begin);
  }
  float factors[kRowBlock];
  c.kernel.softmax_rows(strip.rows, columns, scale, all ? nullptr : visible, scores, kKeyLeading, stats + strip.row,
                        factors);
  for (int r = 0; r < strip.rows; ++r) {
    // After the row sum: dropout does not change the normalisation.
    if (p.dropout.active) {
      c.kernel.drop_row(columns, p.dropout.keep_factor, c.w.keep + (strip.row + r) * kKeyLeading + strip.begin,
                        scores + r * kKeyLeading);
    }
    if (factors[r] != 1.0f && out.begun) c.kernel.scale_row(out.columns, factors[r], out.from(r).data);
  }
}

// Scores of one row block against one tile of keys, and their share of the output.
void attend(const Context& c, const Visibility& visible, const Tile& tile, const Factors& factors, RowStats* stats,
            Sum* out) {
  const auto& [p, kernel, q, w] = c;
  const Geometry& g = p.geometry;
  const uint8_t* mask = nullptr;
  if (p.mask.data != nullptr) {
    if (!load_mask(p.mask, tile, w.mask)) return;
    mask = w.mask;
  }
  const Strips strips(visible, tile, q.strip);
  for (const Strip& strip : strips) {
    if (strip.empty()) continue;
    multiply(kernel, q, strip, tile.keys, g.score_dim(), factors.query, factors.key, w.scores);
  }
  const float scale = add_pse(p, kernel, tile, w.scores, w.shift);
  if (p.dropout.active) load_keep(p, kernel, tile, w.keep);
  for (const Strip& strip : strips) {
    const Sum rows = out->from(strip.row);
    if (strip.empty()) {
      rows.leave_out(strip.rows);
      continue;
    }
    soften(c, tile, strips, strip, scale, mask, stats, rows);
    const float* scores = w.scores + strip.row * kKeyLeading + strip.begin;
    const void* weights = scores;
    if (q.along > 1) {
      void* const packed = unit(q, w.weights, int64_t{strip.row} * w.weights_ld);
      q.pack_rows(strip.rows, strip.end - strip.begin, scores, kKeyLeading, packed, w.weights_ld);
      weights = packed;
    }
    const int keys = std::min(strip.end, tile.keys) - strip.begin;
    q.matmul(strip.rows, rows.columns, units(q, keys), weights, w.weights_ld, 1,
             unit(q, factors.value.data, int64_t{strip.begin / q.along} * factors.value.ld), factors.value.ld,
             rows.data, rows.ld, rows.begun);
  }
  out->begun = true;
}

// A sink is one more score, with weight and without value: every row starts from it. One of -inf has no weight either;
// that of +inf or NaN is exp(sink - sink), no number.
RowStats first_stats(const ForwardParams& p, int64_t head) {
  if (p.sink == nullptr || p.sink[head] == -__builtin_inff()) return {-__builtin_inff(), 0.0f};
  return {p.sink[head], p.sink[head] - p.sink[head] + 1.0f};
}

// Rows of one query head that a task computes.
struct Rows {
  const Sequence& sequence;
  int64_t head, first;
  int count;
};

void finish_rows(const Context& c, const Rows& rows) {
  const auto& [p, kernel, products, w] = c;
  const Sequence& s = rows.sequence;
  const bool no_keys = s.kv_len == 0;  // CANN then writes 0 to all three outputs
  for (int r = 0; r < rows.count; ++r) {
    const bool saw_nothing = w.stats[r].sum == 0.0f;
    w.factors[r] = saw_nothing ? 0.0f : 1.0f / w.stats[r].sum;
    const int64_t lanes = p.statistic(s, rows.head, rows.first + r) * kStatLanes;
    std::fill_n(p.softmax_max + lanes, kStatLanes, no_keys ? 0.0f : saw_nothing ? -FLT_MAX : w.stats[r].max);
    std::fill_n(p.softmax_sum + lanes, kStatLanes, no_keys ? 0.0f : saw_nothing ? FLT_MAX : w.stats[r].sum);
  }
  const View& out = p.attention_out;
  kernel.store_rows(p.dtype, w.out, w.value_ld, rows.count, static_cast<int>(p.geometry.v_dim), w.factors,
                    at(p.dtype, out, s.index, rows.head, s.q_begin + rows.first), out.strides.position,
                    out.strides.dim);
}

void forward_rows(const Context& c, const Rows& rows) {
  const auto& [p, kernel, products, w] = c;
  const Geometry& g = p.geometry;
  const Sequence& s = rows.sequence;
  const int64_t kv_head = rows.head / g.group(), row = rows.first;
  const Positions query = load_first(p, products, query_source(p, s, rows.head, row), rows.count, w.query, w.query_ld);
  std::fill_n(w.stats, rows.count, first_stats(p, rows.head));
  Sum out[kMostRowBlocks];
  const int blocks = static_cast<int>(ceil_div(rows.count, kRowBlock));
  const auto rows_of = [&](int block) { return std::min(kRowBlock, rows.count - block * kRowBlock); };
  for (int block = 0; block < blocks; ++block) {
    out[block] = {w.out + int64_t{block} * kRowBlock * w.value_ld, w.value_ld, padded(g.v_dim)};
  }

  const Visibility visible(p.sparsity, g, s);
  const Interval all = visible.rows(row, row + rows.count);
  for (int64_t key = all.begin / kKeyBlock * kKeyBlock; key < all.end; key += kKeyBlock) {
    const int keys = static_cast<int>(std::min<int64_t>(kKeyBlock, s.kv_len - key));
    Factors factors{
        query,
        load_second(p, products, s, key_source(p, s, kv_head, key), keys, w.key, w.query_ld),
        load_weighted(p, products, s, value_source(p, s, kv_head, key), keys, w.value, w.value_ld),
    };
    for (int block = 0; block < blocks; ++block) {
      const int before = block * kRowBlock, count = rows_of(block);
      const int64_t first = row + before;
      if (!visible.rows(first, first + count).meets({key, key + keys})) continue;
      factors.query.data = unit(products, query.data, int64_t{before} * query.ld);
      attend(c, visible, {s, rows.head, first, key, count, keys}, factors, w.stats + before, &out[block]);
    }
  }
  for (int block = 0; block < blocks; ++block) out[block].leave_out(rows_of(block));
  finish_rows(c, rows);
}

}  // namespace

int64_t forward_scratch_bytes(const ForwardParams& p, int threads) {
  const int blocks = row_blocks_per_task(p, threads);
  Scratch counter(nullptr);
  task_blocks(p, blocks, counter);
  return counter.used() + threads * workspace_bytes(p.geometry, products_of(p, active_microkernel()), blocks);
}

void flash_forward(const ForwardParams& p, const Parallel& parallel, void* scratch) {
  const Geometry& g = p.geometry;
  const Microkernel& kernel = active_microkernel();
  const Products& products = products_of(p, kernel);
  const int blocks = row_blocks_per_task(p, parallel.threads);
  Scratch shared(scratch);
  const Blocks tasks = task_blocks(p, blocks, shared);
  const int64_t rows_per_task = int64_t{blocks} * kRowBlock, bytes = workspace_bytes(g, products, blocks);
  char* workspaces = static_cast<char*>(scratch) + shared.used();
  const auto make_workspace = [&](int thread) {
    Scratch mine(workspaces + thread * bytes);
    return Workspace(g, products, blocks, mine);
  };
  for_each_task(parallel, tasks.total(), make_workspace, [&](const Workspace& workspace, int64_t task) {
    const Blocks::Place place = tasks.locate(task);
    const Sequence& s = place.sequence;
    // Later rows first: under a causal mask they are the long ones, and the short ones fill the gaps at the end.
    const int64_t first = (tasks.of(s) - 1 - place.block) * rows_per_task;
    const int count = static_cast<int>(std::min(rows_per_task, s.q_len - first));
    forward_rows({p, kernel, products, workspace}, {s, place.head, first, count});
  });
}

}  // namespace ascendspeed::cpu
