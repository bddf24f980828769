// The position shift: what is added to the score of row i and key j, by pse_type.
//
//   1  scale * (q.k + pse_ij)         pse_ij from the caller's tensor
//   0  scale * q.k + pse_ij           likewise
//   2  scale * q.k - slope * d        d = |j + kv_start - i - q_start|, one slope for each batch element and head
//   3  scale * q.k - slope * sqrt(d)
//
// A tensor of kPseCompressedRows rows for more query rows than that holds the last rows of a shift that depends on i -
// j alone: row i >= q_len - 1024 is row i - (q_len - 1024); an earlier one is row 0 shifted along j.
#pragma once

#include <cstdint>

#include "attention/dtype.h"
#include "attention/layout.h"
#include "attention/problem.h"
#include "attention/sparse.h"

namespace ascendspeed {

enum PseType : int64_t { kOutsideScale = 0, kInsideScale = 1, kLinearDistance = 2, kRootDistance = 3 };

constexpr int64_t kPseCompressedRows = 1024;

// kv_start - q_start. The first number of each list counts, and neither where one is missing. Beyond any length they
// are clamped, so that distances cannot overflow.
inline int64_t start_shift(const OptionalInts& q_start_idx, const OptionalInts& kv_start_idx) {
  const bool both = q_start_idx && kv_start_idx && !q_start_idx->empty() && !kv_start_idx->empty();
  return both ? clamp_tokens(kv_start_idx->front()) - clamp_tokens(q_start_idx->front()) : 0;
}

inline bool is_generated(int64_t pse_type) { return pse_type == kLinearDistance || pse_type == kRootDistance; }

// Where the numbers of one sequence and head lie, in elements from the start of the tensor.
struct PsePlane {
  int64_t origin, row, column;  // row is 0 where all rows share one
};

// Where the numbers of a pse tensor, or of its gradient, lie.
struct PsePlanes {
  int64_t batch = 0, head = 0, row = 0, column = 0;  // strides in elements; broadcast axes have 0
  // One dimension (TND): the planes [N, Sq, Skv] of the sequences end to end, or [N, Skv] where row is 0; batch, head
  // and any other value of row are not read.
  bool packed = false;

  PsePlane plane(const Sequence& s, int64_t n, int64_t heads) const {
    if (!packed) return {s.index * batch + n * head, row, column};
    if (row == 0) return {(heads * s.kv_begin + n * s.kv_len) * column, 0, column};
    return {(heads * s.scores_before + n * s.q_len * s.kv_len) * column, s.kv_len * column, column};
  }
};

struct Pse {
  const void* data = nullptr;  // nullptr: no shift
  DType dtype = DType::kFloat32;
  int64_t type = kInsideScale;
  PsePlanes planes;
  int64_t shift = 0;               // kv_start - q_start
  bool shifts_first_only = false;  // the others have a shift of 0 (sparse_mode 8)
  bool compressed = false;

  // The factors on q.k and, after the shift is added, on the sum.
  float before(float scale) const { return type == kInsideScale ? 1.0f : scale; }
  float after(float scale) const { return type == kInsideScale ? scale : 1.0f; }
  int64_t shift_of(const Sequence& s) const { return shifts_first_only && s.index != 0 ? 0 : shift; }
};

}  // namespace ascendspeed
