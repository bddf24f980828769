// Conversions between torch's vocabulary and the rules'.
#include "torch/tensor_info.h"

#include <c10/core/ScalarType.h>
#include <c10/util/Exception.h>

namespace ascendspeed {

DType to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kHalf:
      return DType::kFloat16;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kBool:
      return DType::kBool;
    case at::kByte:
      return DType::kUInt8;
    default:
      return DType::kOther;
  }
}

TensorInfo describe(const at::Tensor& tensor) {
  std::string name = std::string(c10::getDtypeNames(tensor.scalar_type()).first);
  return {tensor.sizes().vec(), to_dtype(tensor.scalar_type()), name};
}

OptionalTensor describe(const std::optional<at::Tensor>& tensor) {
  if (!tensor || !tensor->defined()) return std::nullopt;
  return describe(*tensor);
}

void raise_unless_ok(const Status& status) { TORCH_CHECK_VALUE(status.ok(), status.message); }

}  // namespace ascendspeed
