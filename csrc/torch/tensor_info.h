// Torch tensors as the rules see them, and a refusal as the Python exception a user gets.
#pragma once

#include <ATen/core/Tensor.h>

#include "attention/problem.h"
#include "attention/status.h"

namespace ascendspeed {

DType to_dtype(at::ScalarType type);
TensorInfo describe(const at::Tensor& tensor);
OptionalTensor describe(const std::optional<at::Tensor>& tensor);

// ValueError for what CANN refuses; nothing when accepted.
void raise_unless_ok(const Status& status);

}  // namespace ascendspeed
