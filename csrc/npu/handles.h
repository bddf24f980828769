// The aclnn objects of one call. They describe tensors; they do not keep their memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "aclnn/acl_meta.h"
#include "attention/problem.h"

namespace ascendspeed::npu {

// Makes objects for a call and destroys them all.
class Handles {
 public:
  Handles() = default;
  Handles(const Handles&) = delete;
  Handles& operator=(const Handles&) = delete;
  ~Handles();

  // nullptr for a tensor that is not there. Throws ValueError for one in a private format of the device.
  const aclTensor* tensor(const char* name, const at::Tensor& tensor);
  const aclTensor* tensor(const char* name, const std::optional<at::Tensor>& tensor);
  // nullptr for a list that is not there, or empty.
  const aclIntArray* ints(const OptionalInts& values);

 private:
  std::vector<const aclTensor*> tensors_;
  std::vector<const aclIntArray*> arrays_;
};

}  // namespace ascendspeed::npu
