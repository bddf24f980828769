// The CPU kernels of the two operators: rules, then outputs, then parameters, then csrc/cpu.
#include <ATen/Parallel.h>
#include <ATen/TensorUtils.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "attention/params.h"
#include "attention/rules.h"
#include "cpu/flash_backward.h"
#include "cpu/flash_forward.h"
#include "torch/schema.h"
#include "torch/tensor_info.h"

namespace ascendspeed {
namespace {

// What one call holds besides tensors; AttentionParams points into `prefix`.
struct Call {
  Resolved resolved;
  std::vector<int64_t> prefix;
  at::Tensor mask;  // keeps the expanded view alive
};

ConstView view_of(const at::Tensor& tensor, Layout layout, int64_t head_dim) {
  return {tensor.const_data_ptr(), split_strides(layout, tensor.strides().data(), head_dim)};
}

View mutable_view_of(const at::Tensor& tensor, Layout layout, int64_t head_dim) {
  return {tensor.mutable_data_ptr(), split_strides(layout, tensor.strides().data(), head_dim)};
}

void fill_params(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                 const AttributeArguments& rest, Call* call, AttentionParams* p) {
  const Attributes& a = rest.attributes;
  const Geometry& g = call->resolved.geometry;
  const Layout layout = call->resolved.layout;
  call->prefix = a.prefix.value_or(std::vector<int64_t>{});
  p->geometry = g;
  p->dtype = to_dtype(query.scalar_type());
  p->scale = static_cast<float>(a.scale);
  p->query = view_of(query, layout, g.qk_dim);
  p->key = view_of(key, layout, g.qk_dim);
  p->value = view_of(value, layout, g.v_dim);
  p->sparsity = {rest.atten_mask.has_value(), a.sparse_mode, a.pre_tockens, a.next_tockens, call->prefix.data()};
  if (p->sparsity.mask_decides()) {
    call->mask = rest.atten_mask->expand({g.batch, g.heads, g.q_len, g.kv_len});
    const auto strides = call->mask.strides();
    p->mask = {static_cast<const uint8_t*>(call->mask.const_data_ptr()), strides[0], strides[1], strides[2],
               strides[3]};
  }
}

cpu::Parallel torch_threads() {
  return {at::get_num_threads(), [](int threads, void (*body)(void*, int), void* state) {
            at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) body(state, static_cast<int>(thread));
            });
          }};
}

at::Tensor empty_scratch(int64_t bytes) {
  constexpr int64_t kAlign = 64;  // torch's CPU allocator aligns to this too, but promises it nowhere
  return at::empty({bytes + kAlign}, at::TensorOptions().dtype(at::kByte));
}

void* aligned(const at::Tensor& scratch) {
  const auto address = reinterpret_cast<uintptr_t>(scratch.mutable_data_ptr());
  return reinterpret_cast<void*>((address + 63) / 64 * 64);
}

void forward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  raise_unless_ok(check_devices(devices_of(op.schema(), *stack)));
  const ForwardArguments arguments = pop_forward(stack);
  Call call;
  raise_unless_ok(check_forward(arguments.problem(), &call.resolved));

  const Geometry& g = call.resolved.geometry;
  const Layout layout = call.resolved.layout;
  std::array<int64_t, 4> shape;
  const int rank = layout_shape(layout, g.batch, g.heads, g.q_len, g.v_dim, &shape);
  at::Tensor out = at::empty(at::IntArrayRef(shape.data(), rank), arguments.query.options());
  const auto stat_options = arguments.query.options().dtype(at::kFloat);
  at::Tensor max = at::empty({g.batch, g.heads, g.q_len, kStatLanes}, stat_options);
  at::Tensor sum = at::empty({g.batch, g.heads, g.q_len, kStatLanes}, stat_options);

  if (g.nothing_to_attend()) {
    for (at::Tensor* output : {&out, &max, &sum}) output->zero_();
  } else if (!g.output_is_empty()) {
    ForwardParams p;
    fill_params(arguments.query, arguments.key, arguments.value, arguments.rest, &call, &p);
    p.attention_out = mutable_view_of(out, layout, g.v_dim);
    p.softmax_max = max.mutable_data_ptr<float>();
    p.softmax_sum = sum.mutable_data_ptr<float>();
    const cpu::Parallel parallel = torch_threads();
    const at::Tensor scratch = empty_scratch(cpu::forward_scratch_bytes(p, parallel.threads));
    cpu::flash_forward(p, parallel, aligned(scratch));
  }
  torch::jit::push(*stack, std::move(out), std::move(max), std::move(sum));
}

void backward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  raise_unless_ok(check_devices(devices_of(op.schema(), *stack)));
  const BackwardArguments arguments = pop_backward(stack);
  Call call;
  raise_unless_ok(check_backward(arguments.problem(), &call.resolved));

  const Geometry& g = call.resolved.geometry;
  const Layout layout = call.resolved.layout;
  at::Tensor dq = at::empty(arguments.query.sizes(), arguments.query.options());
  at::Tensor dk = at::empty(arguments.key.sizes(), arguments.key.options());
  at::Tensor dv = at::empty(arguments.value.sizes(), arguments.value.options());

  if (g.nothing_to_attend() || g.output_is_empty()) {
    for (at::Tensor* output : {&dq, &dk, &dv}) output->zero_();
  } else {
    BackwardParams p;
    fill_params(arguments.query, arguments.key, arguments.value, arguments.rest, &call, &p);
    const at::Tensor max = arguments.softmax_max->contiguous(), sum = arguments.softmax_sum->contiguous();
    p.dy = view_of(arguments.dy, layout, g.v_dim);
    p.attention_in = view_of(*arguments.attention_in, layout, g.v_dim);
    p.softmax_max = max.const_data_ptr<float>();
    p.softmax_sum = sum.const_data_ptr<float>();
    p.dq = mutable_view_of(dq, layout, g.qk_dim);
    p.dk = mutable_view_of(dk, layout, g.qk_dim);
    p.dv = mutable_view_of(dv, layout, g.v_dim);
    const cpu::Parallel parallel = torch_threads();
    const at::Tensor scratch = empty_scratch(cpu::backward_scratch_bytes(p, parallel.threads));
    cpu::flash_backward(p, parallel, aligned(scratch));
  }
  torch::jit::push(*stack, std::move(dq), std::move(dk), std::move(dv));
}

}  // namespace
}  // namespace ascendspeed

TORCH_LIBRARY_IMPL(ascendspeed, CPU, m) {
  m.impl("flash_attention_score", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::forward>());
  m.impl("flash_attention_score_grad", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::backward>());
}
