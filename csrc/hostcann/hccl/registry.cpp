#include "hostcann/hccl/registry.h"

#include <unordered_map>

namespace hostcann::hccl {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<HcclComm, std::shared_ptr<Communicator>> communicators;
};

// Never destroyed: streams may still run collectives while the process ends.
Registry& registry() {
  static auto* const instance = new Registry;
  return *instance;
}

Error not_alive(HcclComm handle) {
  return handle == nullptr ? Error(HCCL_E_PTR, "comm is null")
                           : Error(HCCL_E_PARA, "comm is no communicator of this process, or has been destroyed");
}

}  // namespace

HcclComm add(std::shared_ptr<Communicator> communicator) {
  const std::lock_guard lock(registry().mutex);
  const HcclComm handle = communicator.get();
  registry().communicators[handle] = std::move(communicator);
  return handle;
}

std::shared_ptr<Communicator> find(HcclComm handle) {
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().communicators.find(handle);
  if (found == registry().communicators.end()) throw not_alive(handle);
  return found->second;
}

void remove(HcclComm handle) {
  std::shared_ptr<Communicator> last;  // ends outside the lock
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().communicators.find(handle);
  if (found == registry().communicators.end()) throw not_alive(handle);
  last = std::move(found->second);
  registry().communicators.erase(found);
}

}  // namespace hostcann::hccl
