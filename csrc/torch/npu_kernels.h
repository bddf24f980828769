// How the kernels of ascendspeed._npu reach the dispatcher: as a table of functions.
#pragma once

#include "torch/calls.h"

namespace ascendspeed {

struct NpuKernels {
  ComputeForward* forward;
  ComputeBackward* backward;
  // Fills `mask` with the bits of `numel` probabilities, more than 0.
  void (*dropout_gen_mask)(const at::Tensor& mask, int64_t numel, double keep_prob, int64_t seed, int64_t offset);
};

// The name of the capsule, ascendspeed._npu.kernels, that holds a pointer to the table.
constexpr const char* kNpuKernels = "ascendspeed.NpuKernels";

}  // namespace ascendspeed
