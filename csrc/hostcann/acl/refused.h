// How a call that host CANN lacks is refused: by name, to the caller and once on standard error.
#pragma once

#include "acl/acl_base.h"

namespace hostcann {

// 207000, with the recent error message; `detail` says what was asked of the function, if anything.
aclError not_implemented(const char* function, const char* detail = nullptr);

}  // namespace hostcann
