// The objects of an aclnn call as ATen has them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "aclnn/acl_meta.h"

namespace hostcann {

// The same memory as a CPU tensor. Refuses NULL, dtypes that ATen lacks, and what check_tensor refuses.
at::Tensor to_aten(const char* name, const aclTensor* tensor);

// Refuses NULL, and dtypes that ATen lacks.
at::Scalar to_aten(const char* name, const aclScalar* scalar);

at::ScalarType to_aten(const std::string& name, aclDataType dtype);

std::string json(const aclScalar* scalar);

}  // namespace hostcann
