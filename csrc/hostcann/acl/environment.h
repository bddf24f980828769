// What the environment variables say about the machine that is modelled, read once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hostcann/acl/fault.h"

namespace hostcann {

struct Environment {
  uint32_t devices = 8;                        // ASCENDSPEED_HOSTCANN_DEVICES
  std::size_t memory = std::size_t{64} << 30;  // ASCENDSPEED_HOSTCANN_MEMORY: bytes of each device
  std::string soc = "Ascend910B2";             // ASCENDSPEED_HOSTCANN_SOC
  std::vector<Fault> faults;                   // ASCENDSPEED_HOSTCANN_FAULT
  std::string problem;                         // names the first variable that is wrong, and the rule; or empty
};

const Environment& environment();

// Whether a product with this chip runs the operators: the Atlas A2 and A3 series, and the 950.
bool soc_is_modelled(const std::string& name);

// The first device node of a real card's driver, or empty. Host CANN does not work beside one: nobody shall train on it
// by mistake.
std::string real_driver();

}  // namespace hostcann
