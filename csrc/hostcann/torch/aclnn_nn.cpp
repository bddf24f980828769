// Layers of a model that torch_npu has operators of its own for. They compute in float32, as the cards do.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>

#include <numeric>

#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/objects.h"
#include "hostcann/aclnn/status.h"
#include "hostcann/aclnn/trace.h"
#include "hostcann/torch/aclnn_arguments.h"

using namespace hostcann;
using at::Tensor;

namespace {

constexpr Api kRmsNorm{.name = "aclnnRmsNorm"}, kRmsNormGrad{.name = "aclnnRmsNormGrad"},
    kSwiGlu{.name = "aclnnSwiGlu"}, kSwiGluGrad{.name = "aclnnSwiGluGrad"};

Tensor as_float(const Tensor& tensor) { return tensor.to(at::kFloat); }

// The dimensions of x that gamma does not have, and the others, over which a norm goes.
struct Dims {
  std::vector<int64_t> outer, normed;

  Dims(const Tensor& x, const Tensor& gamma) {
    const int64_t split = x.dim() - gamma.dim();
    if (split < 0 || gamma.dim() == 0 || x.sizes().slice(split) != gamma.sizes()) {
      refuse_value("gamma " + c10::str(gamma.sizes()) + " must have the last sizes of x " + c10::str(x.sizes()));
    }
    outer.resize(split);
    std::iota(outer.begin(), outer.end(), 0);
    normed.resize(gamma.dim());
    std::iota(normed.begin(), normed.end(), split);
  }
};

void check_rstd(const Tensor& rstd, const Tensor& x, const Dims& dims) {
  std::vector<int64_t> sizes = x.sizes().vec();
  for (const int64_t dim : dims.normed) sizes[dim] = 1;
  check_sizes("rstd", rstd, sizes);
  if (rstd.scalar_type() != at::kFloat) refuse_value("rstd: must be ACL_FLOAT");
}

// Of x as SwiGlu takes it: two halves along a dimension, which is counted from the end when negative.
std::vector<Tensor> halves(const Tensor& x, int64_t dim) {
  if (dim < -x.dim() || dim >= x.dim()) refuse_value("dim=" + std::to_string(dim) + " is none of x");
  if (x.size(dim) % 2 != 0) refuse_value("x " + c10::str(x.sizes()) + ": size " + std::to_string(dim) + " is odd");
  return x.chunk(2, dim);
}

}  // namespace

ACLNN aclnnRmsNormGetWorkspaceSize(const aclTensor* x, const aclTensor* gamma, double epsilon, const aclTensor* yOut,
                                   const aclTensor* rstdOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  const auto arguments = [&] {
    return json_object({{"x", json(x)},
                        {"gamma", json(gamma)},
                        {"epsilon", json(epsilon)},
                        {"y", json(yOut)},
                        {"rstd", json(rstdOut)}});
  };
  return first_phase(kRmsNorm, arguments, workspaceSize, executor, [&] {
    const Tensor in = to_aten("x", x), scale = to_aten("gamma", gamma);
    const Tensor y = to_aten("y", yOut), rstd = to_aten("rstd", rstdOut);
    const Dims dims(in, scale);
    check_sizes("y", y, in.sizes());
    check_rstd(rstd, in, dims);
    return plan({{"y", yOut}, {"rstd", rstdOut}}, {{"x", x}, {"gamma", gamma}}, [=] {
      const Tensor values = as_float(in);
      const Tensor inverse = at::rsqrt(values.square().mean(dims.normed, true) + epsilon);
      rstd.copy_(inverse);
      y.copy_(values * inverse * as_float(scale));
    });
  });
}
ACLNN aclnnRmsNorm(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kRmsNorm, workspace, workspaceSize, executor, stream);
}

ACLNN aclnnRmsNormGradGetWorkspaceSize(const aclTensor* dy, const aclTensor* x, const aclTensor* rstd,
                                       const aclTensor* gamma, const aclTensor* dxOut, const aclTensor* dgammaOut,
                                       uint64_t* workspaceSize, aclOpExecutor** executor) {
  const auto arguments = [&] {
    return json_object({{"dy", json(dy)},
                        {"x", json(x)},
                        {"rstd", json(rstd)},
                        {"gamma", json(gamma)},
                        {"dx", json(dxOut)},
                        {"dgamma", json(dgammaOut)}});
  };
  return first_phase(kRmsNormGrad, arguments, workspaceSize, executor, [&] {
    const Tensor grad = to_aten("dy", dy), in = to_aten("x", x), inverse = to_aten("rstd", rstd);
    const Tensor scale = to_aten("gamma", gamma), dx = to_aten("dx", dxOut), dgamma = to_aten("dgamma", dgammaOut);
    const Dims dims(in, scale);
    check_sizes("dy", grad, in.sizes());
    check_rstd(inverse, in, dims);
    check_sizes("dx", dx, in.sizes());
    check_sizes("dgamma", dgamma, scale.sizes());
    const std::vector<Named> inputs{{"dy", dy}, {"x", x}, {"rstd", rstd}, {"gamma", gamma}};
    return plan({{"dx", dxOut}, {"dgamma", dgammaOut}}, inputs, [=] {
      const Tensor normal = as_float(in) * inverse, upper = as_float(grad), inner = upper * as_float(scale);
      dgamma.copy_(dims.outer.empty() ? upper * normal : (upper * normal).sum(dims.outer));
      dx.copy_((inner - normal * (inner * normal).mean(dims.normed, true)) * inverse);
    });
  });
}
ACLNN aclnnRmsNormGrad(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kRmsNormGrad, workspace, workspaceSize, executor, stream);
}

ACLNN aclnnSwiGluGetWorkspaceSize(const aclTensor* x, int64_t dimOptional, const aclTensor* out,
                                  uint64_t* workspaceSize, aclOpExecutor** executor) {
  const auto arguments = [&] { return json_object({{"x", json(x)}, {"dim", json(dimOptional)}, {"out", json(out)}}); };
  return first_phase(kSwiGlu, arguments, workspaceSize, executor, [&] {
    const std::vector<Tensor> half = halves(to_aten("x", x), dimOptional);
    const Tensor y = to_aten("out", out);
    check_sizes("out", y, half[0].sizes());
    return plan({{"out", out}}, {{"x", x}}, [=] { y.copy_(at::silu(as_float(half[0])) * as_float(half[1])); });
  });
}
ACLNN aclnnSwiGlu(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kSwiGlu, workspace, workspaceSize, executor, stream);
}

ACLNN aclnnSwiGluGradGetWorkspaceSize(const aclTensor* yGrad, const aclTensor* x, int64_t dimOptional,
                                      const aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor) {
  const auto arguments = [&] {
    return json_object({{"y_grad", json(yGrad)}, {"x", json(x)}, {"dim", json(dimOptional)}, {"out", json(out)}});
  };
  return first_phase(kSwiGluGrad, arguments, workspaceSize, executor, [&] {
    const Tensor grad = to_aten("y_grad", yGrad), dx = to_aten("out", out);
    const std::vector<Tensor> half = halves(to_aten("x", x), dimOptional);
    check_sizes("y_grad", grad, half[0].sizes());
    check_sizes("out", dx, to_aten("x", x).sizes());
    return plan({{"out", out}}, {{"y_grad", yGrad}, {"x", x}}, [=, dim = dimOptional] {
      const Tensor gate = as_float(half[0]), linear = as_float(half[1]), upper = as_float(grad);
      dx.copy_(at::cat({at::silu_backward(upper * linear, gate), upper * at::silu(gate)}, dim));
    });
  });
}
ACLNN aclnnSwiGluGrad(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kSwiGluGrad, workspace, workspaceSize, executor, stream);
}
