// Whether the process may use the runtime.
#pragma once

#include "acl/acl_base.h"

namespace hostcann {

// 0 when the environment variables are valid and no real card's driver is there; else the refusal, in the name of
// `function`.
aclError check_machine(const char* function);

// check_machine, and aclInit has been called.
aclError check_running(const char* function);

}  // namespace hostcann
