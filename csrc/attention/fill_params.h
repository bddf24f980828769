// From a legal problem and the memory of its tensors to the parameters of a kernel.
//
// Called by csrc/torch and csrc/hostcann after rules.h has accepted the problem. Sizes and dtypes are the problem's;
// only addresses and strides come from the framework.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/params.h"
#include "attention/problem.h"
#include "attention/rules.h"

namespace ascendspeed {

// Where a tensor lies: its first element, and a stride in elements for each dimension.
struct TensorMemory {
  const void* data = nullptr;
  std::vector<int64_t> strides;
};

// Memory of the tensors that the problem has; the others are not read. Those marked contiguous must be.
struct InputMemory {
  TensorMemory query, key, value, pse, atten_mask, query_rope, key_rope;
  const float* sink = nullptr;         // contiguous
  const uint8_t* drop_mask = nullptr;  // contiguous
  uint64_t seed = 0, offset = 0;       // of the generator that stands in for a drop_mask
};

// Fills all but outputs, their gradients and what only a backward reads. `params` points into `attributes` and
// `resolved`, which must outlive it.
void fill_params(const TensorInfo& query, const Attributes& attributes, const Resolved& resolved,
                 const InputMemory& memory, AttentionParams* params);

// The planes of a pse tensor of a legal problem, or of its gradient, which has the same sizes.
PsePlanes pse_planes(const Attributes& attributes, const Resolved& resolved, const std::vector<int64_t>& strides);

}  // namespace ascendspeed
