#include "hostcann/acl/fault.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <utility>

#include "hostcann/acl/environment.h"

namespace hostcann {
namespace {

struct Counts {
  std::mutex mutex;
  std::map<std::pair<const Fault*, int32_t>, uint64_t> calls;  // by fault and device
};
Counts& counts() {
  static Counts* const all = new Counts;  // threads may outlive main
  return *all;
}

}  // namespace

std::optional<Strike> strike(FaultPoint point, const std::string& function, int32_t device) {
  std::optional<Strike> struck;
  if (device < 0) return struck;
  const std::lock_guard lock(counts().mutex);
  for (const Fault& fault : environment().faults) {
    if (fault.point != point || fault.device.value_or(device) != device) continue;
    if (!fault.function.empty() && fault.function != function) continue;
    const uint64_t call = ++counts().calls[{&fault, device}];
    if (struck || call < fault.first || call > fault.last) continue;
    struck = fault.suffers;
    struck->message = "asked for by ASCENDSPEED_HOSTCANN_FAULT (" + fault.text + "): call " + std::to_string(call) +
                      " on device " + std::to_string(device);
    std::fprintf(stderr, "[host CANN] %s: %s\n", function.c_str(), struck->message.c_str());
  }
  return struck;
}

}  // namespace hostcann
