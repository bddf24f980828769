// Faults on demand (ASCENDSPEED_HOSTCANN_FAULT): which call fails, and how. The one place that counts calls, for all of
// our libraries.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "acl/acl_base.h"

namespace hostcann {

// Where a fault strikes.
enum class FaultPoint { kFirstPhase, kSecondPhase, kOnStream, kMemory, kCollective };

// What a call that was struck has to suffer; at most one of `delay` and `die` is set, and only of a collective.
struct Strike {
  std::string message;  // who asked for it: the variable, the fault as written, the number of the call
  std::chrono::duration<double> delay{};
  bool die = false;
};

// One fault of the variable.
struct Fault {
  std::string text;  // as written
  FaultPoint point;
  uint64_t first, last;           // the calls that it strikes, counted from 1 on each device
  std::string function;           // counts and strikes this one only; empty: all
  std::optional<int32_t> device;  // on this one only; none: on each
  Strike suffers;
};

// The faults of the variable's value, on a machine with so many devices. Where it is malformed: none, and `problem`
// says which fault and why.
std::vector<Fault> parse_faults(const std::string& value, uint32_t devices, std::string* problem);

// A call that would succeed counts itself, and learns whether it must fail instead. Without a device (-1) no call
// counts. What strikes goes to standard error.
ACL_FUNC_VISIBILITY std::optional<Strike> strike(FaultPoint point, const std::string& function, int32_t device);

}  // namespace hostcann
