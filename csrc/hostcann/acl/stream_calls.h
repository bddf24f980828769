// Steps that the calls on streams, events and memory share.
#pragma once

#include <functional>

#include "hostcann/acl/context.h"

namespace hostcann {

// Put work on a stream, in the name of `function`; 107017 when it is being destroyed, 207005 without a thread for it.
aclError push(const char* function, Stream& stream, std::function<void()> work, bool always = false);

// Wait for everything on the stream, `timeout` in milliseconds or -1, and return what it failed with.
aclError synchronize(const char* function, Stream& stream, int32_t timeout);

}  // namespace hostcann
