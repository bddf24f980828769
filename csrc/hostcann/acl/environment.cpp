#include "hostcann/acl/environment.h"

#include <glob.h>

#include <array>
#include <cctype>
#include <cstdlib>
#include <string_view>

#include "hostcann/acl/number.h"

namespace hostcann {
namespace {

// Chips by the start of their name; something must follow. Others (Ascend910A, Ascend310P3, ...) have no kernel of the
// attention operators.
constexpr std::array<std::string_view, 4> kSocPrefixes = {"Ascend910B", "Ascend910_93", "Ascend950PR_", "Ascend950DT_"};

constexpr uint32_t kMaxDevices = 64;

// The variable as a whole number in [1, limit], or `fallback` when it is not set; what is wrong goes to `problem`.
uint64_t whole_number(const char* name, const char* value, uint64_t fallback, uint64_t limit, std::string& problem) {
  if (value == nullptr) return fallback;
  const auto number = parse_number<uint64_t>(value);
  if (number && *number >= 1 && *number <= limit) return *number;
  if (problem.empty()) {
    problem = std::string(name) + "=" + value + " must be a whole number from 1 to " + std::to_string(limit);
  }
  return fallback;
}

Environment read() {
  Environment result;
  result.devices =
      static_cast<uint32_t>(whole_number("ASCENDSPEED_HOSTCANN_DEVICES", std::getenv("ASCENDSPEED_HOSTCANN_DEVICES"),
                                         result.devices, kMaxDevices, result.problem));
  result.memory = whole_number("ASCENDSPEED_HOSTCANN_MEMORY", std::getenv("ASCENDSPEED_HOSTCANN_MEMORY"), result.memory,
                               uint64_t{1} << 50, result.problem);
  if (const char* soc = std::getenv("ASCENDSPEED_HOSTCANN_SOC")) {
    result.soc = soc;
    if (!soc_is_modelled(result.soc) && result.problem.empty()) {
      result.problem = "ASCENDSPEED_HOSTCANN_SOC=" + result.soc +
                       " is not a product that runs the operators; these do: Ascend910B1 .. Ascend910B4 (Atlas A2), "
                       "Ascend910_9362 .. Ascend910_9392 (Atlas A3), Ascend950PR_* and Ascend950DT_*";
    }
  }
  if (const char* faults = std::getenv("ASCENDSPEED_HOSTCANN_FAULT")) {
    std::string problem;
    result.faults = parse_faults(faults, result.devices, &problem);
    if (!problem.empty() && result.problem.empty()) {
      result.problem = std::string("ASCENDSPEED_HOSTCANN_FAULT=") + faults + " is malformed: " + problem;
    }
  }
  return result;
}

}  // namespace

bool soc_is_modelled(const std::string& name) {
  for (const std::string_view prefix : kSocPrefixes) {
    if (name.size() > prefix.size() && name.compare(0, prefix.size(), prefix) == 0 &&
        std::isdigit(static_cast<unsigned char>(name[prefix.size()])) != 0) {
      return true;
    }
  }
  return false;
}

const Environment& environment() {
  static const Environment* const read_once = new Environment(read());  // outlives every thread that asks
  return *read_once;
}

std::string real_driver() {
  glob_t found{};
  std::string first;
  if (glob("/dev/davinci*", GLOB_NOSORT, nullptr, &found) == 0 && found.gl_pathc > 0) first = found.gl_pathv[0];
  globfree(&found);
  return first;
}

}  // namespace hostcann
