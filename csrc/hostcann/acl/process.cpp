#include "hostcann/acl/process.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>

#include "acl/acl_rt.h"
#include "hostcann/acl/context.h"
#include "hostcann/acl/environment.h"
#include "hostcann/acl/stream.h"

namespace {

enum class Phase { kBefore, kRunning, kAfter };

std::mutex phase_mutex;
Phase phase = Phase::kBefore;

// What the settings of a configuration file would make CANN write is not written here, so they are refused.
aclError check_configuration(const char* path) {
  if (path == nullptr || *path == '\0') return ACL_SUCCESS;
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    return hostcann::refuse(ACL_ERROR_INVALID_FILE, std::string("aclInit: configPath=") + path + " cannot be read");
  }
  for (const char* key : {"\"dump\"", "\"profiler\""}) {
    if (text.find(key) != std::string::npos) {
      return hostcann::refuse(ACL_ERROR_FEATURE_UNSUPPORTED, std::string("aclInit: configPath=") + path + " asks for " +
                                                                 key + ", which host CANN lacks");
    }
  }
  return ACL_SUCCESS;
}

}  // namespace

namespace hostcann {

aclError check_machine(const char* function) {
  if (const std::string node = real_driver(); !node.empty()) {
    const std::string message = std::string(function) +
                                ": host CANN does not work where the driver of a real card is (" + node +
                                "); take it out of LD_LIBRARY_PATH to use the card";
    std::fprintf(stderr, "[host CANN] %s\n", message.c_str());
    return refuse(ACL_ERROR_FEATURE_UNSUPPORTED, message);
  }
  if (!environment().problem.empty()) {
    const bool soc = environment().problem.starts_with("ASCENDSPEED_HOSTCANN_SOC");
    std::fprintf(stderr, "[host CANN] %s: %s\n", function, environment().problem.c_str());
    return refuse(soc ? ACL_ERROR_RT_SOC_VERSION : ACL_ERROR_INVALID_PARAM,
                  std::string(function) + ": " + environment().problem);
  }
  return ACL_SUCCESS;
}

aclError check_running(const char* function) {
  const std::lock_guard lock(phase_mutex);
  if (phase == Phase::kRunning) return ACL_SUCCESS;
  return refuse(ACL_ERROR_UNINITIALIZE, std::string(function) + ": aclInit was not called before");
}

}  // namespace hostcann

using namespace hostcann;

aclError aclInit(const char* configPath) {
  const std::lock_guard lock(phase_mutex);
  if (phase == Phase::kRunning) return refuse(ACL_ERROR_REPEAT_INITIALIZE, "aclInit: called before in this process");
  if (const aclError code = check_machine("aclInit")) return code;
  if (const aclError code = check_configuration(configPath)) return code;
  phase = Phase::kRunning;
  return ACL_SUCCESS;
}

aclError aclFinalize() {
  {
    const std::lock_guard lock(phase_mutex);
    if (phase == Phase::kBefore) return refuse(ACL_ERROR_UNINITIALIZE, "aclFinalize: aclInit was not called before");
    if (phase == Phase::kAfter) return refuse(ACL_ERROR_REPEAT_FINALIZE, "aclFinalize: called before in this process");
    phase = Phase::kAfter;
  }
  end_all_contexts();
  return ACL_SUCCESS;
}

aclError aclrtGetRunMode(aclrtRunMode* runMode) {
  if (runMode == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetRunMode: runMode is null");
  *runMode = ACL_HOST;
  return ACL_SUCCESS;
}
