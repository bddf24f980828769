// What attention and its gradients are, row by row in double, from the documentation of the operator alone.
//
// Nothing here reads csrc/attention/sparse.h, pse.h or dropout.h: a mistake there must not be made twice.
#pragma once

#include "attention_case.h"

namespace ascendspeed::test {

// A result, and how far a kernel that works in float32 may be from it, element by element.
struct Bounded {
  Tensor value, error;

  Bounded() = default;
  explicit Bounded(const std::array<int64_t, 4>& sizes) : value(sizes), error(sizes) {}
};

// Shapes are those of the tensors in AttentionCase; stats are [1, 1, 1, rows x N] in the order they lie in memory.
// Elements of packed tensors that belong to no batch element are NaN: the kernels leave them as they were.
struct Expected {
  Bounded attention_out, softmax_max, softmax_sum;
  Bounded dq, dk, dv, dq_rope, dk_rope, dpse, dsink;  // dpse like pse, where it is a tensor of numbers for rows
};

Expected expected_of(const AttentionCase& c);

// Whether the generator keeps probability `element`; Philox4x32-10 one counter at a time.
bool generator_keeps(uint64_t seed, uint64_t offset, double keep_prob, uint64_t element);

}  // namespace ascendspeed::test
