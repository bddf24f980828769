// A failed call or collective: HCCL's code and one sentence.
#pragma once

#include <stdexcept>
#include <string>

#include "hccl/hccl_types.h"

namespace hostcann::hccl {

struct Error : std::runtime_error {
  Error(HcclResult code, const std::string& message) : std::runtime_error(message), code(code) {}
  HcclResult code;
};

}  // namespace hostcann::hccl
