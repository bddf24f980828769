// Whether another process still lives, told apart from a later one with the same id.
#pragma once

#include <cstdint>

namespace hostcann::hccl {

struct ProcessIdentity {
  int32_t pid;
  uint64_t start_time;  // clock ticks after boot
};

ProcessIdentity this_process();

// False for a process that has ended, also while its parent has not collected it.
bool is_alive(const ProcessIdentity& process);

}  // namespace hostcann::hccl
