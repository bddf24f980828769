// The CPU kernels of the two operators: from tensors to parameters, then csrc/cpu.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "attention/fill_params.h"
#include "attention/rules.h"
#include "cpu/drop_mask.h"
#include "cpu/flash_backward.h"
#include "cpu/flash_forward.h"
#include "torch/calls.h"
#include "torch/tensor_info.h"

namespace ascendspeed {
namespace {

// Contiguous copies that a call holds beside its arguments.
struct Copies {
  at::Tensor drop_mask, sink;
};

TensorMemory memory_of(const at::Tensor& tensor) { return {tensor.const_data_ptr(), tensor.strides().vec()}; }
TensorMemory memory_of(const std::optional<at::Tensor>& tensor) { return tensor ? memory_of(*tensor) : TensorMemory{}; }

ConstView view_of(const at::Tensor& tensor, Layout layout, int64_t head_dim) {
  return {tensor.const_data_ptr(), split_strides(layout, tensor.strides().data(), head_dim)};
}

View mutable_view_of(const at::Tensor& tensor, Layout layout, int64_t head_dim) {
  return {tensor.mutable_data_ptr(), split_strides(layout, tensor.strides().data(), head_dim)};
}

void fill_params(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                 const AttributeArguments& rest, const Resolved& resolved, Copies* copies, AttentionParams* p) {
  InputMemory memory{memory_of(query),           memory_of(key),
                     memory_of(value),           memory_of(rest.pse),
                     memory_of(rest.atten_mask), memory_of(rest.query_rope),
                     memory_of(rest.key_rope)};
  memory.seed = rest.seed;
  memory.offset = rest.offset;
  if (rest.sink && rest.sink->numel() > 0) {
    copies->sink = rest.sink->contiguous();
    memory.sink = copies->sink.const_data_ptr<float>();
  }
  if (rest.drop_mask) {
    copies->drop_mask = rest.drop_mask->contiguous();
    memory.drop_mask = copies->drop_mask.const_data_ptr<uint8_t>();
  }
  ascendspeed::fill_params(describe(query), rest.attributes, resolved, memory, p);
}

cpu::Parallel torch_threads(int most = at::get_num_threads()) {
  return {std::min(most, at::get_num_threads()), [](int threads, void (*body)(void*, int), void* state) {
            at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
              for (int64_t thread = begin; thread < end; ++thread) body(state, static_cast<int>(thread));
            });
          }};
}

// As many threads as have something to do for longer than waking them takes, some microseconds.
cpu::Parallel threads_for(const Geometry& g) {
  constexpr int64_t kMultiplyAddsPerThread = 1 << 18;
  constexpr int64_t kMultiplyAddsPerLoad = 8;  // moving a number into a tile takes as long as so many of its products
  const int64_t rows = g.sequences == nullptr ? g.batch * g.q_len : g.q_total;
  const int64_t keys = g.sequences == nullptr ? g.batch * g.kv_len : g.kv_total;
  const int64_t terms = rows * g.kv_len + kMultiplyAddsPerLoad * (rows + keys);
  return torch_threads(static_cast<int>(
      std::clamp<int64_t>(terms * g.heads * (g.score_dim() + g.v_dim) / kMultiplyAddsPerThread, 1, 1 << 20)));
}

at::Tensor empty_scratch(int64_t bytes) {
  constexpr int64_t kAlign = 64;  // torch's CPU allocator aligns to this too, but promises it nowhere
  return at::empty({bytes + kAlign}, at::TensorOptions().dtype(at::kByte));
}

void* aligned(const at::Tensor& scratch) {
  const auto address = reinterpret_cast<uintptr_t>(scratch.mutable_data_ptr());
  return reinterpret_cast<void*>((address + 63) / 64 * 64);
}

void compute_forward(const ForwardArguments& arguments, const Resolved& resolved, const ForwardOutputs& out) {
  ForwardParams p;
  Copies copies;
  fill_params(arguments.query, arguments.key, arguments.value, arguments.rest, resolved, &copies, &p);
  p.attention_out = mutable_view_of(out.attention_out, resolved.layout, resolved.geometry.v_dim);
  p.softmax_max = out.softmax_max.mutable_data_ptr<float>();
  p.softmax_sum = out.softmax_sum.mutable_data_ptr<float>();
  const cpu::Parallel parallel = threads_for(resolved.geometry);
  const at::Tensor scratch = empty_scratch(cpu::forward_scratch_bytes(p, parallel.threads));
  cpu::flash_forward(p, parallel, aligned(scratch));
}

void compute_backward(const BackwardArguments& arguments, const Resolved& resolved, const BackwardOutputs& out) {
  const Geometry& g = resolved.geometry;
  const Layout layout = resolved.layout;
  BackwardParams p;
  Copies copies;
  fill_params(arguments.query, arguments.key, arguments.value, arguments.rest, resolved, &copies, &p);
  const at::Tensor max = arguments.softmax_max->contiguous(), sum = arguments.softmax_sum->contiguous();
  p.dy = view_of(arguments.dy, layout, g.v_dim);
  p.attention_in = view_of(*arguments.attention_in, layout, g.v_dim);
  p.softmax_max = max.const_data_ptr<float>();
  p.softmax_sum = sum.const_data_ptr<float>();
  p.dq = mutable_view_of(out.dq, layout, g.qk_dim);
  p.dk = mutable_view_of(out.dk, layout, g.qk_dim);
  p.dv = mutable_view_of(out.dv, layout, g.v_dim);
  if (g.rope_dim > 0) {
    p.dq_rope = mutable_view_of(out.dq_rope, layout, g.rope_dim);
    p.dk_rope = mutable_view_of(out.dk_rope, layout, g.rope_dim);
  }
  if (out.dpse.numel() > 0) {
    p.dpse = {out.dpse.mutable_data_ptr(), pse_planes(arguments.rest.attributes, resolved, out.dpse.strides().vec())};
  }
  if (p.sink != nullptr) p.dsink = out.dsink.mutable_data_ptr<float>();
  const cpu::Parallel parallel = threads_for(g);
  const at::Tensor scratch = empty_scratch(cpu::backward_scratch_bytes(p, parallel.threads));
  cpu::flash_backward(p, parallel, aligned(scratch));
}

void forward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  call_forward(op.schema(), stack, compute_forward);
}

void backward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  call_backward(op.schema(), stack, compute_backward);
}

// `self` only says which device.
at::Tensor dropout_gen_mask(const at::Tensor& self, int64_t numel, double keep_prob, int64_t seed, int64_t offset) {
  raise_unless_ok(check_dropout_bits(numel, keep_prob));
  at::Tensor mask = at::empty({drop_mask_bytes(numel)}, self.options().dtype(at::kByte));
  cpu::generate_drop_mask(static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), keep_prob, numel, torch_threads(),
                          mask.mutable_data_ptr<uint8_t>());
  return mask;
}

}  // namespace
}  // namespace ascendspeed

TORCH_LIBRARY_IMPL(ascendspeed, CPU, m) {
  m.impl("dropout_gen_mask", ascendspeed::dropout_gen_mask);
  m.impl("flash_attention_score", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::forward>());
  m.impl("flash_attention_score_grad", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::backward>());
}
