// What a communicator is made with: environment variables, and the caller's HcclCommConfig, which goes before them.
#pragma once

#include <chrono>
#include <string>

#include "hccl/hccl_types.h"

namespace hostcann::hccl {

struct Settings {
  std::chrono::seconds connect_timeout;  // HCCL_CONNECT_TIMEOUT, 1 to 7200, default 120
  std::chrono::seconds exec_timeout;     // HCCL_EXEC_TIMEOUT or hcclExecTimeOut; 0 waits for ever; default 1836
  std::string name;                      // hcclCommName; empty where none is given
};

// Throws Error HCCL_E_PARA for a value out of range. `config` may be null, and of an older CANN: shorter.
Settings read_settings(const HcclCommConfig* config);

}  // namespace hostcann::hccl
