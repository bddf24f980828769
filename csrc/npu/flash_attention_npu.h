// The kernels of torch.ops.ascendspeed for tensors on an NPU: what torch/npu_kernels.h asks for.
#pragma once

#include "torch/calls.h"

namespace ascendspeed::npu {

void forward(const ForwardArguments& given, const Resolved& resolved, const ForwardOutputs& out);
void backward(const BackwardArguments& given, const Resolved& resolved, const BackwardOutputs& out);
void dropout_gen_mask(const at::Tensor& mask, int64_t numel, double keep_prob, int64_t seed, int64_t offset);

}  // namespace ascendspeed::npu
