// CANN's profiler as it is while nobody profiles: reports are taken and dropped. It can never be switched on here.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "acl/acl_base.h"

extern "C" {

// The callback would be called when profiling starts.
ACL_FUNC_VISIBILITY int32_t MsprofRegisterCallback(uint32_t, int32_t (*)(uint32_t, void*, uint32_t)) { return 0; }

ACL_FUNC_VISIBILITY int32_t MsprofReportApi(uint32_t, const void*) { return 0; }

ACL_FUNC_VISIBILITY int32_t MsprofReportCompactInfo(uint32_t, const void*, uint32_t) { return 0; }

ACL_FUNC_VISIBILITY int32_t MsprofReportAdditionalInfo(uint32_t, const void*, uint32_t) { return 0; }

ACL_FUNC_VISIBILITY uint64_t MsprofGetHashId(const char* hashInfo, size_t length) {
  return hashInfo == nullptr ? 0 : std::hash<std::string_view>()({hashInfo, length});
}

ACL_FUNC_VISIBILITY uint64_t MsprofSysCycleTime() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

}  // extern "C"
