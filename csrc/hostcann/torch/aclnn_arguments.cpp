#include "hostcann/torch/aclnn_arguments.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/from_blob.h>

#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/memory.h"
#include "hostcann/aclnn/objects.h"
#include "hostcann/aclnn/status.h"
#include "hostcann/aclnn/trace.h"

namespace hostcann {

at::ScalarType to_aten(const std::string& name, aclDataType dtype) {
  switch (dtype) {
    case ACL_FLOAT:
      return at::kFloat;
    case ACL_FLOAT16:
      return at::kHalf;
    case ACL_BF16:
      return at::kBFloat16;
    case ACL_DOUBLE:
      return at::kDouble;
    case ACL_BOOL:
      return at::kBool;
    case ACL_INT8:
      return at::kChar;
    case ACL_INT16:
      return at::kShort;
    case ACL_INT32:
      return at::kInt;
    case ACL_INT64:
      return at::kLong;
    case ACL_UINT8:
      return at::kByte;
    case ACL_UINT16:
      return at::kUInt16;
    case ACL_UINT32:
      return at::kUInt32;
    case ACL_UINT64:
      return at::kUInt64;
    case ACL_COMPLEX64:
      return at::kComplexFloat;
    case ACL_COMPLEX128:
      return at::kComplexDouble;
    default:
      refuse_value(name + ": dtype " + dtype_name(dtype) + " is not supported");
  }
}

at::Tensor to_aten(const char* name, const aclTensor* tensor) {
  if (tensor == nullptr) refuse_null(name);
  check_tensor(name, tensor);
  const at::TensorOptions options(to_aten(of(name, *tensor), tensor->dtype));
  auto* first = static_cast<char*>(tensor->data) + tensor->offset * static_cast<int64_t>(options.dtype().itemsize());
  return at::from_blob(first, tensor->sizes, tensor->strides, options);
}

at::Scalar to_aten(const char* name, const aclScalar* scalar) {
  if (scalar == nullptr) refuse_null(name);
  auto* bytes = const_cast<unsigned char*>(scalar->bytes.data());
  return at::from_blob(bytes, {}, at::TensorOptions(to_aten(name, scalar->dtype))).item();
}

std::string json(const aclScalar* scalar) {
  if (scalar == nullptr) return "null";
  const at::Scalar value = to_aten("scalar", scalar);
  std::string number;
  if (value.isComplex()) {
    const auto complex = value.toComplexDouble();
    number = "[" + json(complex.real()) + ", " + json(complex.imag()) + "]";
  } else {
    number = value.isFloatingPoint() ? json(value.toDouble()) : json(value.to<int64_t>());
  }
  return json_object({{"dtype", json(dtype_name(scalar->dtype))}, {"value", number}});
}

void check_sizes(const char* name, const at::Tensor& out, at::IntArrayRef expected) {
  if (out.sizes() != expected) refuse_value(std::string(name) + ": expected " + c10::str(expected));
}

Plan plan(const std::vector<Named>& outputs, const std::vector<Named>& inputs, std::function<void()> work) {
  Plan made;
  for (const auto& [name, tensor] : outputs) {
    check_output(name, tensor, tensor->sizes, tensor->dtype);
    made.memory.push_back(range_of(name, tensor));
  }
  for (const auto& [name, tensor] : inputs) made.memory.push_back(range_of(name, tensor));
  made.run = [work = std::move(work)](void*) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    work();
  };
  return made;
}

}  // namespace hostcann
