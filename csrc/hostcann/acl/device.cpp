// Questions about the devices that are modelled.
#include <unistd.h>

#include <string>

#include "hostcann/acl/context.h"
#include "hostcann/acl/environment.h"
#include "hostcann/acl/process.h"
#include "hostcann/acl/stream.h"

using namespace hostcann;

namespace {

// Of Ascend910B2, for every chip: what programs do with them is choose a tiling.
constexpr int64_t kCubeCores = 24;
constexpr int64_t kVectorCores = 48;
constexpr int64_t kL2Bytes = int64_t{192} << 20;

bool there_is(int64_t device) { return device >= 0 && device < environment().devices; }

aclError no_device(const char* function, int64_t device) {
  return refuse(ACL_ERROR_RT_INVALID_DEVICEID, std::string(function) + ": device " + std::to_string(device) +
                                                   " is not one of the " + std::to_string(environment().devices) +
                                                   " devices of this machine");
}

}  // namespace

const char* aclrtGetSocName() {
  if (check_machine("aclrtGetSocName") != ACL_SUCCESS) return nullptr;
  return environment().soc.c_str();
}

aclError aclrtGetDeviceCount(uint32_t* count) {
  if (count == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetDeviceCount: count is null");
  *count = 0;
  if (const aclError code = check_machine("aclrtGetDeviceCount")) return code;
  *count = environment().devices;
  return ACL_SUCCESS;
}

aclError aclGetDeviceCapability(uint32_t deviceId, aclDeviceInfo deviceInfo, int64_t* value) {
  if (value == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclGetDeviceCapability: value is null");
  *value = 0;
  if (!there_is(deviceId)) return no_device("aclGetDeviceCapability", deviceId);
  switch (deviceInfo) {
    case ACL_DEVICE_INFO_AI_CORE_NUM:
      *value = kCubeCores;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_VECTOR_CORE_NUM:
      *value = kVectorCores;
      return ACL_SUCCESS;
    case ACL_DEVICE_INFO_L2_SIZE:
      *value = kL2Bytes;
      return ACL_SUCCESS;
    default:
      return refuse(ACL_ERROR_INVALID_PARAM,
                    "aclGetDeviceCapability: deviceInfo=" + std::to_string(deviceInfo) + " is unknown");
  }
}

aclError aclrtDeviceCanAccessPeer(int32_t* canAccessPeer, int32_t deviceId, int32_t peerDeviceId) {
  if (canAccessPeer == nullptr) {
    return refuse(ACL_ERROR_INVALID_PARAM, "aclrtDeviceCanAccessPeer: canAccessPeer is null");
  }
  *canAccessPeer = 0;
  for (const int32_t each : {deviceId, peerDeviceId}) {
    if (!there_is(each)) return no_device("aclrtDeviceCanAccessPeer", each);
  }
  *canAccessPeer = deviceId != peerDeviceId ? 1 : 0;
  return ACL_SUCCESS;
}

// Every device reaches every other one's memory anyhow.
aclError aclrtDeviceEnablePeerAccess(int32_t peerDeviceId, uint32_t flags) {
  if (flags != 0) {
    return refuse(ACL_ERROR_INVALID_PARAM,
                  "aclrtDeviceEnablePeerAccess: flags=" + std::to_string(flags) + " must be 0");
  }
  const auto context = current_context();
  if (context == nullptr) return no_context("aclrtDeviceEnablePeerAccess");
  if (!there_is(peerDeviceId) || peerDeviceId == context->device) {
    return no_device("aclrtDeviceEnablePeerAccess: as a peer", peerDeviceId);
  }
  return ACL_SUCCESS;
}

aclError aclrtDeviceGetBareTgid(int32_t* pid) {
  if (pid == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtDeviceGetBareTgid: pid is null");
  *pid = getpid();
  return ACL_SUCCESS;
}

aclError aclrtGetPhyDevIdByLogicDevId(int32_t logicDevId, int32_t* phyDevId) {
  if (phyDevId == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetPhyDevIdByLogicDevId: phyDevId is null");
  *phyDevId = 0;
  if (!there_is(logicDevId)) return no_device("aclrtGetPhyDevIdByLogicDevId", logicDevId);
  *phyDevId = logicDevId;
  return ACL_SUCCESS;
}

// The kernels keep infinities and NaN; none of them saturates.
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
  if (mode == ACL_RT_OVERFLOW_MODE_INFNAN) return ACL_SUCCESS;
  return refuse(mode == ACL_RT_OVERFLOW_MODE_SATURATION ? ACL_ERROR_RT_FEATURE_NOT_SUPPORT : ACL_ERROR_INVALID_PARAM,
                "aclrtSetDeviceSatMode: mode=" + std::to_string(mode) +
                    " is not ACL_RT_OVERFLOW_MODE_INFNAN, the one mode of host CANN");
}

aclError aclrtGetDeviceSatMode(aclrtFloatOverflowMode* mode) {
  if (mode == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetDeviceSatMode: mode is null");
  *mode = ACL_RT_OVERFLOW_MODE_INFNAN;
  return ACL_SUCCESS;
}
