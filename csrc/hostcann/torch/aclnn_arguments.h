// The objects of an aclnn call as ATen has them, and a call that ATen works off.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "aclnn/acl_meta.h"
#include "hostcann/aclnn/executor.h"

#define ACLNN extern "C" ACL_FUNC_VISIBILITY aclnnStatus

namespace hostcann {

// The same memory as a CPU tensor. Refuses NULL, dtypes that ATen lacks, and what check_tensor refuses.
at::Tensor to_aten(const char* name, const aclTensor* tensor);

// Refuses NULL, and dtypes that ATen lacks.
at::Scalar to_aten(const char* name, const aclScalar* scalar);

at::ScalarType to_aten(const std::string& name, aclDataType dtype);

std::string json(const aclScalar* scalar);

// Refuses an output of other sizes.
void check_sizes(const char* name, const at::Tensor& out, at::IntArrayRef expected);

// A call whose `work` writes the outputs and reads the inputs.
using Named = std::pair<const char*, const aclTensor*>;
Plan plan(const std::vector<Named>& outputs, const std::vector<Named>& inputs, std::function<void()> work);

}  // namespace hostcann
