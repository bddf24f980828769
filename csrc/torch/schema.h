// The operator's arguments: the schema text and, in the same order, how a call's values become Attributes.
//
// Kernels are registered boxed, so that two dozen attributes are listed here once and not in every signature.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/stack.h>

#include <optional>
#include <string>

#include "attention/problem.h"
#include "attention/rules.h"

namespace ascendspeed {

// Full schemas of flash_attention_score and flash_attention_score_grad, without the namespace.
std::string forward_schema();
std::string backward_schema();

struct AttributeArguments {
  Attributes attributes;
  std::optional<at::Tensor> pse, drop_mask, atten_mask, sink, query_rope, key_rope;
  uint64_t seed = 0, offset = 0;
};

struct ForwardArguments {
  at::Tensor query, key, value;
  AttributeArguments rest;

  ForwardProblem problem() const;
};

struct BackwardArguments {
  at::Tensor query, key, value, dy;
  std::optional<at::Tensor> softmax_max, softmax_sum, softmax_in, attention_in;
  AttributeArguments rest;
  bool needs_dpse = false;  // dpse costs a pass of its own; without this it comes back empty

  BackwardProblem problem() const;
};

// The devices of the tensors among a call's arguments; none where they are all on one.
NamedDevices devices_of(const c10::FunctionSchema& schema, const torch::jit::Stack& stack);

// Take the arguments of one call off the stack; they must be all that is on it.
ForwardArguments pop_forward(torch::jit::Stack* stack);
BackwardArguments pop_backward(torch::jit::Stack* stack);

}  // namespace ascendspeed
