// What every operator asks of a tensor before it looks at what it is for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "aclnn/acl_meta.h"

namespace hostcann {

// "query [2, 3]", for messages.
ACL_FUNC_VISIBILITY std::string of(const char* name, const aclTensor& tensor);

bool is_empty(const aclTensor& tensor);

// Refuses formats and dtypes that are not known, and elements outside of the storage. NULL passes.
ACL_FUNC_VISIBILITY void check_tensor(const char* name, const aclTensor* tensor);

// Refuses a tensor that the caller made for an output unless it has these sizes and this dtype.
ACL_FUNC_VISIBILITY void check_output(const char* name, const aclTensor* output, const std::vector<int64_t>& sizes,
                                      aclDataType dtype);

}  // namespace hostcann
