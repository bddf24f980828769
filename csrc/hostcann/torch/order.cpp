#include "hostcann/torch/order.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

// Python, when this process has one; no link against it.
extern "C" {
__attribute__((weak)) int PyGILState_Check();
__attribute__((weak)) void* PyEval_SaveThread();
__attribute__((weak)) void PyEval_RestoreThread(void*);
}

namespace hostcann {
namespace {

// Most calls come without the interpreter's lock. The others must not keep it while they wait: what they wait for may
// be a collective whose other rank is a thread of this process.
class WithoutPython {
 public:
  WithoutPython() {
    if (PyGILState_Check != nullptr && PyGILState_Check() != 0) thread_ = PyEval_SaveThread();
  }
  ~WithoutPython() {
    if (thread_ != nullptr) PyEval_RestoreThread(thread_);
  }
  WithoutPython(const WithoutPython&) = delete;
  WithoutPython& operator=(const WithoutPython&) = delete;

 private:
  void* thread_ = nullptr;
};

}  // namespace

void wait_for_current_streams(const std::vector<c10::Device>& devices) {
  if (devices.empty()) return;
  const c10::impl::VirtualGuardImpl npu(c10::DeviceType::PrivateUse1);
  const WithoutPython unlocked;
  for (const c10::Device device : devices) {
    const c10::DeviceGuard there(device);  // torch_npu makes the streams of a device when it becomes the current one
    npu.synchronizeStream(npu.getStream(device));
  }
}

c10::Device with_index(c10::Device device) {
  return device.has_index() ? device : c10::impl::VirtualGuardImpl(device.type()).getDevice();
}

}  // namespace hostcann
