// Operators that need more than their CPU kernel, or have none.
#pragma once

#include <ATen/core/boxing/KernelFunction.h>

#include <string>

namespace hostcann {

// The kernel of an operator, by name and overload ("aten::mm.dtype"); nullptr for an operator that needs no care.
const c10::KernelFunction* special_kernel(const std::string& name);

}  // namespace hostcann
