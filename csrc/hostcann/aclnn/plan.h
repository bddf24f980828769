// What the first phase of the operator's calls plans, whatever the version.
#pragma once

#include "hostcann/aclnn/arguments.h"
#include "hostcann/aclnn/executor.h"

namespace hostcann {

Plan plan_forward(const Api& api, const Arguments& arguments);
Plan plan_backward(const Api& api, const Arguments& arguments);

}  // namespace hostcann
