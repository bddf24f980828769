// A record of every call, for tests of what a caller really passes: one JSON object a line, appended to the file that
// ASCENDSPEED_HOSTCANN_TRACE names. Processes may share the file.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "aclnn/aclnn_base.h"
#include "hostcann/aclnn/arguments.h"

namespace hostcann {

// What a line says of an argument: a tensor is {"shape", "strides", "offset", "dtype", "format", "storage_shape"}, an
// array a list, and null what was not passed.
ACL_FUNC_VISIBILITY std::string json(int64_t value);
ACL_FUNC_VISIBILITY std::string json(double value);
ACL_FUNC_VISIBILITY std::string json(const std::string& text);
ACL_FUNC_VISIBILITY std::string json(const aclIntArray* array);
ACL_FUNC_VISIBILITY std::string json(const aclTensor* tensor);

// {name: value, ...} of values that are JSON already.
ACL_FUNC_VISIBILITY std::string json_object(const std::vector<std::pair<std::string, std::string>>& members);

// Attention's; null also what this version lacks.
std::string json(const Arguments& arguments);

// {"function", "status", "message", "workspace_size", "arguments": what `arguments` returns}. Throws a Refusal when the
// file cannot be written; does nothing, and asks for no arguments, when there is no file.
void trace_first_phase(const std::string& function, const std::function<std::string()>& arguments, aclnnStatus status,
                       const std::string& message, uint64_t workspace_size);

// The same without arguments.
void trace_second_phase(const std::string& function, aclnnStatus status, const std::string& message,
                        uint64_t workspace_size);

}  // namespace hostcann
