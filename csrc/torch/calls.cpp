#include "torch/calls.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>

#include "attention/layout.h"
#include "attention/pse.h"
#include "torch/tensor_info.h"

namespace ascendspeed {
namespace {

// What a packed tensor holds after its last sequence takes no part.
void zero_tail(const at::Tensor& tensor, int64_t used) {
  if (used < tensor.size(0)) tensor.narrow(0, used, tensor.size(0) - used).zero_();
}

at::TensorOptions options_float(const at::Tensor& query) { return query.options().dtype(at::kFloat); }

ForwardOutputs allocate(const ForwardArguments& arguments, const Resolved& resolved) {
  const Geometry& g = resolved.geometry;
  const std::vector<int64_t> stats = stats_shape(resolved.layout, g);
  return {at::empty(layout_shape(resolved.layout, g, g.v_dim), arguments.query.options()),
          at::empty(stats, options_float(arguments.query)), at::empty(stats, options_float(arguments.query))};
}

// Like pse where its gradient is wanted. Slopes have none in CANN.
at::Tensor empty_dpse(const BackwardArguments& arguments) {
  const std::optional<at::Tensor>& pse = arguments.rest.pse;
  const int64_t type = arguments.rest.attributes.pse_type;
  if (!pse || !arguments.needs_dpse) return at::empty({0}, arguments.query.options());
  TORCH_CHECK_NOT_IMPLEMENTED(!is_generated(type), "pse: the slopes of pse_type ", type, " have no gradient");
  return at::empty(pse->sizes(), pse->options());
}

at::Tensor empty_like_rope(const std::optional<at::Tensor>& rope, const at::Tensor& query) {
  return rope ? at::empty(rope->sizes(), rope->options()) : at::empty({0}, query.options());
}

BackwardOutputs allocate(const BackwardArguments& arguments) {
  const at::Tensor& query = arguments.query;
  const AttributeArguments& rest = arguments.rest;
  return {at::empty(query.sizes(), query.options()),
          at::empty(arguments.key.sizes(), arguments.key.options()),
          at::empty(arguments.value.sizes(), arguments.value.options()),
          empty_dpse(arguments),
          at::empty({rest.sink ? rest.sink->numel() : 0}, options_float(query)),
          empty_like_rope(rest.query_rope, query),
          empty_like_rope(rest.key_rope, query)};
}

}  // namespace

void call_forward(const c10::FunctionSchema& schema, torch::jit::Stack* stack, ComputeForward* compute) {
  raise_unless_ok(check_devices(devices_of(schema, *stack)));
  const ForwardArguments arguments = pop_forward(stack);
  Resolved resolved;
  raise_unless_ok(check_forward(arguments.problem(), &resolved));

  const c10::DeviceGuard guard(arguments.query.device());
  ForwardOutputs out = allocate(arguments, resolved);
  const Geometry& g = resolved.geometry;
  if (g.nothing_to_compute()) {
    for (at::Tensor* output : {&out.attention_out, &out.softmax_max, &out.softmax_sum}) output->zero_();
  } else {
    compute(arguments, resolved, out);
    if (resolved.layout == Layout::kTND) {
      for (const at::Tensor* output : {&out.attention_out, &out.softmax_max, &out.softmax_sum}) {
        zero_tail(*output, g.end().q_begin);
      }
    }
  }
  torch::jit::push(*stack, std::move(out.attention_out), std::move(out.softmax_max), std::move(out.softmax_sum));
}

void call_backward(const c10::FunctionSchema& schema, torch::jit::Stack* stack, ComputeBackward* compute) {
  raise_unless_ok(check_devices(devices_of(schema, *stack)));
  const BackwardArguments arguments = pop_backward(stack);
  Resolved resolved;
  raise_unless_ok(check_backward(arguments.problem(), &resolved));

  const c10::DeviceGuard guard(arguments.query.device());
  BackwardOutputs out = allocate(arguments);
  const Geometry& g = resolved.geometry;
  if (g.nothing_to_compute()) {
    for (at::Tensor* output : {&out.dq, &out.dk, &out.dv, &out.dpse, &out.dsink, &out.dq_rope, &out.dk_rope}) {
      output->zero_();
    }
  } else {
    compute(arguments, resolved, out);
    if (resolved.layout == Layout::kTND) {
      for (const at::Tensor* output : {&out.dq, &out.dq_rope}) zero_tail(*output, g.end().q_begin);
      for (const at::Tensor* output : {&out.dk, &out.dv, &out.dk_rope}) zero_tail(*output, g.end().kv_begin);
    }
  }
  torch::jit::push(*stack, std::move(out.dq), std::move(out.dk), std::move(out.dv), std::move(out.dpse),
                   std::move(out.dsink), std::move(out.dq_rope), std::move(out.dk_rope));
}

}  // namespace ascendspeed
