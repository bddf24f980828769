// A record of every call, for tests of what a caller really passes: one JSON object a line, appended to the file that
// ASCENDSPEED_HOSTCANN_TRACE names. Processes may share the file.
#pragma once

#include <cstdint>
#include <string>

#include "aclnn/aclnn_base.h"
#include "hostcann/aclnn/arguments.h"

namespace hostcann {

// {"function", "status", "message", "workspace_size", "arguments": {name: value}}: a tensor is {"shape", "strides",
// "offset", "dtype", "format", "storage_shape"}, an array a list, and null what was not passed or what this version
// lacks. Throws a Refusal when the file cannot be written; does nothing when no file is asked for.
void trace_first_phase(const std::string& function, const Arguments& arguments, aclnnStatus status,
                       const std::string& message, uint64_t workspace_size);

// The same without arguments.
void trace_second_phase(const std::string& function, aclnnStatus status, const std::string& message,
                        uint64_t workspace_size);

}  // namespace hostcann
