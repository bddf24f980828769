// What a call does whatever the device: rules, outputs, zeros. The device's part is one function between them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>

#include "attention/rules.h"
#include "torch/schema.h"

namespace ascendspeed {

struct ForwardOutputs {
  at::Tensor attention_out, softmax_max, softmax_sum;
};

struct BackwardOutputs {
  at::Tensor dq, dk, dv, dpse, dsink, dq_rope, dk_rope;
};

// Fill outputs that are allocated, of a legal problem that has something to compute.
using ComputeForward = void(const ForwardArguments&, const Resolved&, const ForwardOutputs&);
using ComputeBackward = void(const BackwardArguments&, const Resolved&, const BackwardOutputs&);

// Boxed calls of the two operators. Raise ValueError for what the rules refuse, before anything is allocated.
void call_forward(const c10::FunctionSchema& schema, torch::jit::Stack* stack, ComputeForward* compute);
void call_backward(const c10::FunctionSchema& schema, torch::jit::Stack* stack, ComputeBackward* compute);

}  // namespace ascendspeed
