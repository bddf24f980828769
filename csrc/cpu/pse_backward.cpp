// A task is one head and one block of keys, of one sequence where the pse tensor has a batch axis, else of all. Where
// 1024 rows stand for all it is a whole head, because most rows share the first of them.
#include "cpu/pse_backward.h"

namespace ascendspeed::cpu {
namespace {

// The sequences whose gradients one part of the pse tensor collects.
struct Collected {
  int64_t begin, end;
};

// Whether each sequence has a part of its own.
bool apart(const BackwardParams& p) { return p.dpse.planes.packed || p.dpse.planes.batch != 0; }

Collected collected(const BackwardParams& p, const Sequence& s) {
  return apart(p) ? Collected{s.index, s.index + 1} : Collected{0, p.geometry.batch};
}

// The geometry whose sequences are the parts: all of them, or the longest alone to stand for those that share one.
Geometry parts(const BackwardParams& p) {
  Geometry g = p.geometry;
  if (apart(p)) return g;
  g.batch = 1;
  g.sequences = nullptr;
  return g;
}

class PseBackward {
 public:
  PseBackward(const BackwardTile& tile, const BackwardWorkspace& workspace)
      : t_(tile), p_(tile.p), g_(tile.g), w_(workspace), grad_scale_(p_.pse.type == kInsideScale ? p_.scale : 1.0f) {}

  // One block of keys of a tensor with a row for each query row, or one row for all.
  void key_block(const Blocks::Place& place) const {
    const Sequence& part = place.sequence;
    const PsePlane plane = p_.dpse.planes.plane(part, place.head, g_.heads);
    const int64_t key = place.block * kKeyBlock;
    const int keys = t_.keys_at(part, key);
    const Collected range = collected(p_, part);
    if (range.end - range.begin == 1) load_keys(g_.sequence(range.begin), place.head, key);
    clear();
    for (int64_t row = 0; row < part.q_len; row += kRowBlock) {
      for (int64_t b = range.begin; b < range.end; ++b) {
        const Sequence s = g_.sequence(b);
        if (range.end - range.begin > 1) load_keys(s, place.head, key);
        const int rows = t_.rows_at(s, row);
        if (!gradients({s, place.head, row, key, rows, keys})) continue;
        for (int r = 0; r < rows; ++r) add(r, plane.row == 0 ? 0 : r, padded(keys));
      }
      if (plane.row == 0) continue;
      store(plane, row, key, t_.rows_at(part, row), keys);
      clear();
    }
    if (plane.row == 0) store(plane, 0, key, 1, keys);
  }

  // A head of the compressed form. `first_row` has room for as many floats as there are keys.
  void compressed_head(const Sequence& part, int64_t head, float* first_row) const {
    const PsePlane plane = p_.dpse.planes.plane(part, head, g_.heads);
    const Collected range = collected(p_, part);
    std::fill_n(first_row, g_.kv_len, 0.0f);
    for (int64_t b = range.begin; b < range.end; ++b) add_to_first_row(g_.sequence(b), head, first_row);
    t_.kernel.store_rows(p_.dtype, first_row, 0, 1, static_cast<int>(g_.kv_len), nullptr,
                         offset(p_.dtype, p_.dpse.data, plane.origin), 0, 1);
    for (int64_t key = 0; key < g_.kv_len; key += kKeyBlock) {
      for (int64_t stored = 1; stored < kPseCompressedRows; stored += kRowBlock) {
        const int rows = static_cast<int>(std::min<int64_t>(kRowBlock, kPseCompressedRows - stored));
        clear();
        for (int64_t b = range.begin; b < range.end; ++b) {
          const Sequence s = g_.sequence(b);
          if (key >= s.kv_len) continue;
          const int64_t row = s.q_len - kPseCompressedRows + stored;
          load_keys(s, head, key);
          if (!gradients({s, head, row, key, rows, t_.keys_at(s, key)})) continue;
          for (int r = 0; r < rows; ++r) add(r, r, columns_up_to(row + r, key, t_.keys_at(s, key)));
        }
        store(plane, stored, key, rows, static_cast<int>(std::min<int64_t>(kKeyBlock, g_.kv_len - key)));
      }
    }
  }

 private:
  // Of rows that the first stored one stands for, each moved along the keys as tiles.h reads it.
  void add_to_first_row(const Sequence& s, int64_t head, float* first_row) const {
    const int64_t first_stored = s.q_len - kPseCompressedRows;
    for (int64_t key = 0; key <= first_stored; key += kKeyBlock) {
      load_keys(s, head, key);
      const int keys = t_.keys_at(s, key);
      for (int64_t row = 0; row <= first_stored; row += kRowBlock) {
        const int rows = static_cast<int>(std::min<int64_t>(kRowBlock, first_stored + 1 - row));
        if (!gradients({s, head, row, key, rows, keys})) continue;
        for (int r = 0; r < rows; ++r) {
          float* to = first_row + key + first_stored - (row + r);
          const float* from = w_.dp + r * kKeyLeading;
          const int columns = columns_up_to(row + r, key, keys);
          for (int c = 0; c < columns; ++c) to[c] += from[c];
        }
      }
    }
  }

  // Leaves the gradients of a tile's scores in w_.dp; false where there are none.
  bool gradients(const Tile& tile) const {
    const Visibility visible = t_.visible_in(tile.sequence);
    return visible.rows(tile.row, tile.row + tile.rows).meets({tile.key, tile.key + tile.keys}) &&
           t_.gradients(w_, tile, t_.strips_of(visible, tile), grad_scale_);
  }
  void load_keys(const Sequence& s, int64_t head, int64_t key) const { t_.load_keys(w_, s, head / g_.group(), key); }
  // Columns of a tile that begins at `key` whose keys lie at or before `row`.
  static int columns_up_to(int64_t row, int64_t key, int keys) {
    return static_cast<int>(std::clamp<int64_t>(row + 1 - key, 0, keys));
  }

  void clear() const { std::fill_n(w_.dpse, int64_t{kRowBlock} * kKeyLeading, 0.0f); }
  void add(int from_row, int to_row, int columns) const {
    const float* from = w_.dp + from_row * kKeyLeading;
    float* to = w_.dpse + to_row * kKeyLeading;
    for (int c = 0; c < columns; ++c) to[c] += from[c];
  }
  void store(const PsePlane& plane, int64_t row, int64_t key, int rows, int keys) const {
    t_.kernel.store_rows(p_.dtype, w_.dpse, kKeyLeading, rows, keys, nullptr,
                         offset(p_.dtype, p_.dpse.data, plane.origin + row * plane.row + key * plane.column), plane.row,
                         plane.column);
  }

  const BackwardTile& t_;
  const BackwardParams& p_;
  const Geometry& g_;
  const BackwardWorkspace& w_;
  float grad_scale_;
};

// Scratch: where parts begin, and for each thread the first row of the compressed form.
struct PseScratch {
  PseScratch(const BackwardParams& p, int threads, Scratch& scratch)
      : keys(parts(p), p.geometry.heads, Axis::kKeys, kKeyBlock, scratch),
        first_rows(scratch.take<float>(p.pse.compressed ? threads * p.geometry.kv_len : 0)) {}

  Blocks keys;
  float* first_rows;  // [threads][longest Skv]
};

}  // namespace

int64_t pse_scratch_bytes(const BackwardParams& p, int threads) {
  if (p.dpse.data == nullptr) return 0;
  Scratch counter(nullptr);
  PseScratch scratch(p, threads, counter);
  return counter.used();
}

void pse_backward(const BackwardTile& backward, const Parallel& parallel, void* workspaces, void* scratch) {
  const BackwardParams& p = backward.p;
  const Geometry& g = p.geometry;
  Scratch memory(scratch);
  const PseScratch shared(p, parallel.threads, memory);
  struct Workspace {
    BackwardWorkspace tiles;
    float* first_row;
  };
  const auto make_workspace = [&](int thread) {
    return Workspace{BackwardWorkspace::at(workspaces, thread, g, backward.products),
                     shared.first_rows + thread * g.kv_len};
  };
  const Geometry whole = parts(p);
  const int64_t tasks = p.pse.compressed ? whole.batch * g.heads : shared.keys.total();
  for_each_task(parallel, tasks, make_workspace, [&](const Workspace& w, int64_t task) {
    const PseBackward run(backward, w.tiles);
    if (p.pse.compressed) {
      run.compressed_head(whole.sequence(task / g.heads), task % g.heads, w.first_row);
    } else {
      run.key_block(shared.keys.locate(task));
    }
  });
}

}  // namespace ascendspeed::cpu
