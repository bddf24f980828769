// What of CANN and torch_npu the binding calls: functions by name, and the two phases of an aclnn call.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>
#include <string>

#include "aclnn/aclnn_base.h"
#include "npu/handles.h"

namespace ascendspeed::npu {

// The address of a function of CANN's operator libraries, where torch_npu looks for it too; nullptr when there is none.
void* address_of(const std::string& name);

// The same, of a function that must be there. Throws c10::Error.
template <typename Function>
Function* function(const char* name);
void* required_address_of(const char* name);
template <typename Function>
Function* function(const char* name) {
  return reinterpret_cast<Function*>(required_address_of(name));
}

// The name of the chip, such as "Ascend910B2".
std::string soc_name();

// Throws c10::Error with CANN's message unless the object was made.
void check_made(const void* object, const char* by);

using FirstPhase = std::function<aclnnStatus(void* address, uint64_t* workspace_size, aclOpExecutor** executor)>;

// Both phases of aclnn call `name`: the first one now, the second one as a task of torch_npu's queue on the current
// stream of the current device, with workspace from the caching allocator. Nothing is waited for. `handles` live until
// the second phase has returned.
//
// Throws c10::Error naming function, code and CANN's message when the first phase refuses. What the second one returns
// is torch_npu's to raise: at the next call, or at the next synchronisation.
void execute(const char* name, const FirstPhase& first_phase, std::shared_ptr<Handles> handles);

}  // namespace ascendspeed::npu
