#include "hostcann/torch/kernels.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>

#include <unordered_map>
#include <vector>

#include "hostcann/torch/boxed.h"

namespace hostcann {
namespace {

using at::Scalar;
using at::ScalarType;
using at::Tensor;
using c10::KernelFunction;

c10::OperatorHandle find(const char* name) { return c10::Dispatcher::singleton().findSchemaOrThrow(name, ""); }

// What at::convolution calls for a device that ATen does not know, with the arguments of convolution.
void convolution(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  static const c10::OperatorHandle kernel = find("aten::convolution");
  run_on_cpu(op, kernel, stack);
}

void convolution_backward(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  static const c10::OperatorHandle kernel = find("aten::convolution_backward");
  // grad_output, input, weight, then bias_sizes, which op lacks, stride, padding, dilation, transposed, ...
  const auto weight = stack->end() - static_cast<std::ptrdiff_t>(op.schema().arguments().size()) + 2;
  const bool transposed = weight[4].toBool();
  const int64_t groups = weight[6].toInt();
  const Tensor& tensor = weight->toTensor();
  const int64_t channels = transposed ? tensor.size(1) * groups : tensor.size(0);
  stack->insert(weight + 1, c10::IValue(std::vector<int64_t>{channels}));
  run_on_cpu(op, kernel, stack);
}

// The products with a type of their own for the result, which ATen has for CUDA only.
Tensor mm(const Tensor& a, const Tensor& b, ScalarType type) { return at::mm(a.to(type), b.to(type)); }
Tensor bmm(const Tensor& a, const Tensor& b, ScalarType type) { return at::bmm(a.to(type), b.to(type)); }
Tensor addmm(const Tensor& c, const Tensor& a, const Tensor& b, ScalarType type, const Scalar& beta,
             const Scalar& alpha) {
  return at::addmm(c.to(type), a.to(type), b.to(type), beta, alpha);
}
Tensor baddbmm(const Tensor& c, const Tensor& a, const Tensor& b, ScalarType type, const Scalar& beta,
               const Scalar& alpha) {
  return at::baddbmm(c.to(type), a.to(type), b.to(type), beta, alpha);
}

// ATen's CPU kernel draws from the default generator of the CPU.
std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p, std::optional<bool> train) {
  Tensor mask = at::empty_like(input, input.options().dtype(at::kBool));
  if (!train.value_or(true)) return {input.clone(), mask.fill_(true)};
  mask.bernoulli_(1 - p);
  return {input * mask * (p == 1 ? 0.0 : 1 / (1 - p)), mask};
}

template <auto* function>
KernelFunction unboxed() {
  return KernelFunction::makeFromUnboxedFunction(TORCH_FN(function));
}

}  // namespace

const KernelFunction* special_kernel(const std::string& name) {
  static const auto& kernels = *new std::unordered_map<std::string, KernelFunction>{
      {"aten::convolution_overrideable", KernelFunction::makeFromBoxedFunction<&convolution>()},
      {"aten::convolution_backward_overrideable", KernelFunction::makeFromBoxedFunction<&convolution_backward>()},
      {"aten::mm.dtype", unboxed<mm>()},
      {"aten::bmm.dtype", unboxed<bmm>()},
      {"aten::addmm.dtype", unboxed<addmm>()},
      {"aten::baddbmm.dtype", unboxed<baddbmm>()},
      {"aten::native_dropout", unboxed<native_dropout>()},
  };
  const auto found = kernels.find(name);
  return found == kernels.end() ? nullptr : &found->second;
}

}  // namespace hostcann
