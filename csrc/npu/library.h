// What of CANN and torch_npu the binding calls: functions by name, and the two phases of an operator.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "aclnn/aclnn_base.h"
#include "npu/handles.h"

namespace ascendspeed::npu {

// The address of a function of CANN's operator libraries, where torch_npu looks for it too; nullptr when there is none.
void* address_of(const std::string& name);

// A function of them that must be there. Throws c10::Error. Looking one up takes long: callers keep it.
void* required_address_of(const std::string& name);
template <typename Function>
Function* function(const char* name) {
  return reinterpret_cast<Function*>(required_address_of(name));
}

// An operator: a pair of functions.
struct Api {
  std::string name;  // of the second phase; the first one's ends in GetWorkspaceSize
  void* first_phase = nullptr;
  aclnnStatus (*second_phase)(void* workspace, uint64_t workspace_size, aclOpExecutor*, aclrtStream) = nullptr;

  bool exists() const { return first_phase != nullptr && second_phase != nullptr; }
};

Api find_api(const std::string& name);

// The name of the chip, such as "Ascend910B2".
std::string soc_name();

// Throws ValueError for a tensor in a private format of the device (FRACTAL_NZ and the like), which no strides
// describe.
void check_format(const char* name, const at::Tensor& tensor);

// Throws c10::Error with CANN's message unless the object was made.
void check_made(const void* object, const char* by);

// Calls the function at api.first_phase with the operator's own arguments before these two.
using FirstPhase = std::function<aclnnStatus(uint64_t* workspace_size, aclOpExecutor** executor)>;

// Both phases of an operator that exists: the first one now, the second one as a task of torch_npu's queue on the
// current stream of the current device, with workspace from the caching allocator. Nothing is waited for. `handles`
// live until the second phase has returned.
//
// Throws c10::Error naming function, code and CANN's message when the first phase refuses. What the second one returns
// is torch_npu's to raise: at the next call, or at the next synchronisation.
void execute(const Api& api, const FirstPhase& first_phase, std::shared_ptr<Handles> handles);

}  // namespace ascendspeed::npu
