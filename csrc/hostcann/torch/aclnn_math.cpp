// libaclnn_math.so: the operators of CANN that torch_npu calls without asking torch's dispatcher, and so past the
// kernels that install.cpp gives ATen's. Any strides, every dtype that ATen has; ATen does the work, on the stream.
#include <ATen/ExpandUtils.h>
#include <ATen/ops/constant_pad_nd.h>

#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/objects.h"
#include "hostcann/aclnn/status.h"
#include "hostcann/aclnn/trace.h"
#include "hostcann/torch/aclnn_arguments.h"

using namespace hostcann;
using at::Tensor;

namespace {

constexpr Api kInplaceCopy{.name = "aclnnInplaceCopy"}, kCast{.name = "aclnnCast"},
    kInplaceZero{.name = "aclnnInplaceZero"}, kInplaceFillScalar{.name = "aclnnInplaceFillScalar"},
    kConstantPadNd{.name = "aclnnConstantPadNd"};

}  // namespace

// src has any dtype, and a shape that broadcasts to selfRef's.
ACLNN aclnnInplaceCopyGetWorkspaceSize(aclTensor* selfRef, const aclTensor* src, uint64_t* workspaceSize,
                                       aclOpExecutor** executor) {
  const auto arguments = [&] { return json_object({{"self", json(selfRef)}, {"src", json(src)}}); };
  return first_phase(kInplaceCopy, arguments, workspaceSize, executor, [&] {
    const Tensor self = to_aten("self", selfRef), from = to_aten("src", src);
    if (!at::is_expandable_to(from.sizes(), self.sizes())) {
      refuse_value(of("src", *src) + " does not broadcast to " + of("self", *selfRef));
    }
    return plan({{"self", selfRef}}, {{"src", src}}, [=] { self.copy_(from); });
  });
}
ACLNN aclnnInplaceCopy(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kInplaceCopy, workspace, workspaceSize, executor, stream);
}

ACLNN aclnnCastGetWorkspaceSize(const aclTensor* self, aclDataType dtype, aclTensor* out, uint64_t* workspaceSize,
                                aclOpExecutor** executor) {
  const auto arguments = [&] {
    return json_object({{"self", json(self)}, {"dtype", json(dtype_name(dtype))}, {"out", json(out)}});
  };
  return first_phase(kCast, arguments, workspaceSize, executor, [&] {
    const Tensor from = to_aten("self", self), to = to_aten("out", out);
    if (to.scalar_type() != to_aten("dtype", dtype)) refuse_value(of("out", *out) + ": its dtype is not dtype");
    check_sizes("out", to, from.sizes());
    return plan({{"out", out}}, {{"self", self}}, [=] { to.copy_(from); });
  });
}
ACLNN aclnnCast(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kCast, workspace, workspaceSize, executor, stream);
}

ACLNN aclnnInplaceZeroGetWorkspaceSize(aclTensor* selfRef, uint64_t* workspaceSize, aclOpExecutor** executor) {
  const auto arguments = [&] { return json_object({{"self", json(selfRef)}}); };
  return first_phase(kInplaceZero, arguments, workspaceSize, executor, [&] {
    return plan({{"self", selfRef}}, {}, [self = to_aten("self", selfRef)] { self.zero_(); });
  });
}
ACLNN aclnnInplaceZero(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kInplaceZero, workspace, workspaceSize, executor, stream);
}

ACLNN aclnnInplaceFillScalarGetWorkspaceSize(aclTensor* selfRef, const aclScalar* value, uint64_t* workspaceSize,
                                             aclOpExecutor** executor) {
  const auto arguments = [&] { return json_object({{"self", json(selfRef)}, {"value", json(value)}}); };
  return first_phase(kInplaceFillScalar, arguments, workspaceSize, executor, [&] {
    return plan({{"self", selfRef}}, {},
                [self = to_aten("self", selfRef), number = to_aten("value", value)] { self.fill_(number); });
  });
}
ACLNN aclnnInplaceFillScalar(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kInplaceFillScalar, workspace, workspaceSize, executor, stream);
}

// `pad` counts elements before and after each dimension, the last one first, as torch's constant_pad_nd.
ACLNN aclnnConstantPadNdGetWorkspaceSize(const aclTensor* self, const aclIntArray* pad, const aclScalar* value,
                                         aclTensor* out, uint64_t* workspaceSize, aclOpExecutor** executor) {
  const auto arguments = [&] {
    return json_object({{"self", json(self)}, {"pad", json(pad)}, {"value", json(value)}, {"out", json(out)}});
  };
  return first_phase(kConstantPadNd, arguments, workspaceSize, executor, [&] {
    const Tensor from = to_aten("self", self), to = to_aten("out", out);
    const at::Scalar number = to_aten("value", value);
    if (pad == nullptr) refuse_null("pad");
    const std::vector<int64_t> count = pad->values;
    if (count.size() % 2 != 0 || count.size() > 2 * self->sizes.size()) {
      refuse_value("pad=" + json(pad) + " must have two numbers for each dimension of self or for fewer");
    }
    std::vector<int64_t> sizes = self->sizes;
    for (size_t i = 0; i < count.size(); ++i) sizes[sizes.size() - 1 - i / 2] += count[i];
    check_sizes("out", to, sizes);
    if (to.scalar_type() != from.scalar_type()) refuse_value(of("out", *out) + ": its dtype is not self's");
    return plan({{"out", out}}, {{"self", self}}, [=] { to.copy_(at::constant_pad_nd(from, count, number)); });
  });
}
ACLNN aclnnConstantPadNd(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor, aclrtStream stream) {
  return second_phase(kConstantPadNd, workspace, workspaceSize, executor, stream);
}
