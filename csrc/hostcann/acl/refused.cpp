// The symbols that torch_npu is linked against and host CANN lacks. Each refuses by name when it is called, and leaves
// a null in what it would have written. Opaque handles and option structures are void* here: nothing looks into them.
#include "hostcann/acl/refused.h"

#include <cstdio>
#include <mutex>
#include <set>
#include <string>

#include "hostcann/acl/stream.h"

namespace hostcann {

aclError not_implemented(const char* function, const char* detail) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::string message =
      std::string(function) + (detail == nullptr ? "" : std::string(" ") + detail) + " is not implemented by host CANN";
  {
    const std::lock_guard lock(mutex);
    if (said.insert(message).second) std::fprintf(stderr, "[host CANN] %s\n", message.c_str());
  }
  return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, message);
}

}  // namespace hostcann

namespace {

template <typename... Outputs>
aclError refused(const char* function, Outputs*... outputs) {
  ((outputs == nullptr ? void() : void(*outputs = Outputs{})), ...);
  return hostcann::not_implemented(function);
}

}  // namespace

#define REFUSED(name, parameters, ...) \
  ACL_FUNC_VISIBILITY aclError name parameters { return refused(#name __VA_OPT__(, ) __VA_ARGS__); }

extern "C" {

// Virtual memory and sharing of it between processes: torch_npu's expandable segments.
REFUSED(aclrtReserveMemAddress, (void** virPtr, size_t, size_t, void*, uint64_t), virPtr)
REFUSED(aclrtReleaseMemAddress, (void*))
REFUSED(aclrtMallocPhysical, (void** handle, size_t, const void*, uint64_t), handle)
REFUSED(aclrtFreePhysical, (void*))
REFUSED(aclrtMapMem, (void*, size_t, size_t, void*, uint64_t))
REFUSED(aclrtUnmapMem, (void*))
REFUSED(aclrtMemExportToShareableHandle, (void*, int, uint64_t, uint64_t* shareableHandle), shareableHandle)
REFUSED(aclrtMemImportFromShareableHandle, (uint64_t, int32_t, void** handle), handle)
REFUSED(aclrtMemSetPidToShareableHandle, (uint64_t, int32_t*, size_t))

// Programs for the device's cores.
REFUSED(aclrtBinaryLoadFromData, (const void*, size_t, const void*, void** binHandle), binHandle)
REFUSED(aclrtBinaryGetFunction, (const void*, const char*, void** funcHandle), funcHandle)
REFUSED(aclrtGetFunctionAddr, (void*, void** aicAddr, void** aivAddr), aicAddr, aivAddr)
REFUSED(rtDevBinaryRegister, (const void*, void** handle), handle)
REFUSED(rtFunctionRegister, (void*, const void*, const char*, const void*, uint32_t))
REFUSED(rtKernelLaunch, (const void*, uint32_t, void*, uint32_t, void*, void*))
REFUSED(rtGetC2cCtrlAddr, (uint64_t* address, uint32_t* length), address, length)

// Callbacks of a stream on a thread that asks for them.
REFUSED(aclrtProcessReport, (int32_t))

// Dumps of operators' inputs and outputs.
REFUSED(aclmdlInitDump, ())
REFUSED(aclmdlSetDump, (const char*))
REFUSED(aclmdlFinalizeDump, ())

}  // extern "C"
