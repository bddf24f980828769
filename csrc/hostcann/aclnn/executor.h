// Between the two phases: what the first one has planned, under a handle, until the second one hands it to a stream.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "aclnn/aclnn_base.h"
#include "hostcann/aclnn/arguments.h"

namespace hostcann {

// Device memory that a call reads or writes.
struct MemoryRange {
  std::string name;
  const void* begin;
  uint64_t bytes;
};

// A call that has passed every check. It owns all it needs but device memory.
struct Plan {
  int64_t workspace_bytes = 0;
  std::vector<MemoryRange> memory;
  std::function<void(void* workspace)> run;  // workspace_bytes of device memory, in no particular alignment
};

// First phase: runs `make`, records the call with what `arguments` says of it (trace.h), and gives the plan a handle.
// Both results are written even when the call is refused: 0 and NULL.
ACL_FUNC_VISIBILITY aclnnStatus first_phase(const Api& api, const std::function<std::string()>& arguments,
                                            uint64_t* workspace_size, aclOpExecutor** executor,
                                            const std::function<Plan()>& make);
// Attention's.
aclnnStatus first_phase(const Api& api, const Arguments& arguments, uint64_t* workspace_size, aclOpExecutor** executor,
                        Plan (*make)(const Api&, const Arguments&));

// Second phase. Consumes the executor, unless it was made repeatable.
ACL_FUNC_VISIBILITY aclnnStatus second_phase(const Api& api, void* workspace, uint64_t workspace_size,
                                             aclOpExecutor* executor, aclrtStream stream);

}  // namespace hostcann
