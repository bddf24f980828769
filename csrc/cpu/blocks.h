// Numbers blocks of rows or keys over a whole batch, whose sequences may differ in length.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/layout.h"
#include "cpu/tiles.h"

namespace ascendspeed::cpu {

enum class Axis { kRows, kKeys };

// Blocks of `size` positions; sequences are the outer index, then heads, then the blocks of one head, ascending.
class Blocks {
 public:
  struct Place {
    Sequence sequence;
    int64_t head, block;
  };

  // The scratch is used where the sequences differ: 8 bytes for each of them.
  Blocks(const Geometry& g, int64_t heads, Axis axis, int64_t size, Scratch& scratch)
      : g_(g), heads_(heads), size_(size), axis_(axis) {
    if (g.sequences == nullptr) {
      total_ = g.batch * heads * of(g.sequence(0));
      return;
    }
    firsts_ = scratch.take<int64_t>(g.batch);
    for (int64_t b = 0; b < g.batch; ++b) {
      if (firsts_ != nullptr) firsts_[b] = total_;
      total_ += heads * of(g.sequences[b]);
    }
  }

  int64_t total() const { return total_; }
  // Blocks of one head of a sequence.
  int64_t of(const Sequence& s) const { return ceil_div(axis_ == Axis::kRows ? s.q_len : s.kv_len, size_); }
  // The number of the first block of a head.
  int64_t first(const Sequence& s, int64_t head) const {
    const int64_t before = firsts_ == nullptr ? s.index * heads_ * of(s) : firsts_[s.index];
    return before + head * of(s);
  }
  Place locate(int64_t number) const {
    int64_t b;
    if (firsts_ == nullptr) {
      b = number / (heads_ * of(g_.sequence(0)));
    } else {  // the last sequence that begins at or before the number: empty ones share a number with the next
      b = std::upper_bound(firsts_, firsts_ + g_.batch, number) - firsts_ - 1;
    }
    const Sequence s = g_.sequence(b);
    const int64_t within = number - first(s, 0), per_head = of(s);
    return {s, within / per_head, within % per_head};
  }

 private:
  Geometry g_;
  int64_t heads_, size_, total_ = 0;
  Axis axis_;
  int64_t* firsts_ = nullptr;
};

}  // namespace ascendspeed::cpu
