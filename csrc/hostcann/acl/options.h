// Options of the process that other files read.
#pragma once

#include <cstdint>

namespace hostcann {

// Seconds that a stream may wait for an event; 0 for no limit.
uint32_t op_wait_timeout();

}  // namespace hostcann
