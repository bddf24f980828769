// The process, devices, contexts, options, messages and plain numbers.
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <thread>

#include "check.h"
#include "hostcann/acl/stream.h"

namespace {

void start() {
  OK(aclInit(nullptr));
  OK(aclrtSetDevice(0));
}

std::string said() {
  const char* text = aclGetRecentErrMsg();
  return text == nullptr ? "nothing" : text;
}

}  // namespace

CASE(a_program_initialises_once) {
  EQUAL(aclrtSetDevice(0), ACL_ERROR_UNINITIALIZE);
  EQUAL(aclFinalize(), ACL_ERROR_UNINITIALIZE);
  OK(aclInit(nullptr));
  EQUAL(aclInit(nullptr), ACL_ERROR_REPEAT_INITIALIZE);
  OK(aclFinalize());
  EQUAL(aclFinalize(), ACL_ERROR_REPEAT_FINALIZE);
}

CASE(a_configuration_file_is_read_and_what_is_lacking_refused) {
  const std::string path = std::getenv("CONFIGURATION");
  EQUAL(aclInit((path + ".none").c_str()), ACL_ERROR_INVALID_FILE);
  EQUAL(aclInit((path + ".dump").c_str()), ACL_ERROR_FEATURE_UNSUPPORTED);
  ERROR_SAYS("\"dump\"");
  OK(aclInit(path.c_str()));
}

CASE(devices_and_contexts_are_those_of_the_thread) {
  int32_t device = 7;
  EQUAL(aclrtGetDevice(&device), ACL_ERROR_RT_CONTEXT_NULL);
  EQUAL(device, 0);
  start();
  uint32_t count = 0;
  OK(aclrtGetDeviceCount(&count));
  EQUAL(count, 8u);
  EQUAL(aclrtSetDevice(8), ACL_ERROR_RT_INVALID_DEVICEID);
  ERROR_SAYS("deviceId=8");
  EQUAL(aclrtSetDevice(-1), ACL_ERROR_RT_INVALID_DEVICEID);
  aclrtContext first = nullptr, again = nullptr, second = nullptr, own = nullptr;
  OK(aclrtGetCurrentContext(&first));
  OK(aclrtSetDevice(3));
  OK(aclrtGetDevice(&device));
  EQUAL(device, 3);
  OK(aclrtGetCurrentContext(&second));
  EQUAL(first != second, true);
  std::thread([&] {
    aclrtContext none = &device;
    EQUAL(aclrtGetCurrentContext(&none), ACL_ERROR_RT_CONTEXT_NULL);
    EQUAL(none, nullptr);
    OK(aclrtSetDevice(0));
    OK(aclrtGetCurrentContext(&again));
  }).join();
  EQUAL(again, first);
  OK(aclrtCreateContext(&own, 3));
  OK(aclrtGetCurrentContext(&again));
  EQUAL(again, own);
  EQUAL(own != second, true);
  EQUAL(aclrtDestroyContext(second), ACL_ERROR_RT_PARAM_INVALID);
  OK(aclrtDestroyContext(own));
  EQUAL(aclrtGetCurrentContext(&again), ACL_ERROR_RT_CONTEXT_NULL);
  EQUAL(aclrtSetCurrentContext(own), ACL_ERROR_RT_INVALID_HANDLE);
  EQUAL(aclrtDestroyContext(own), ACL_ERROR_RT_INVALID_HANDLE);
  OK(aclrtSetCurrentContext(second));
  OK(aclrtResetDevice(3));
  EQUAL(aclrtGetDevice(&device), ACL_ERROR_RT_CONTEXT_NULL);
  OK(aclrtSetDevice(3));  // a device that was reset can be used again
  OK(aclrtGetDevice(&device));
  EQUAL(device, 3);
  OK(aclrtSynchronizeStream(nullptr));
  OK(aclrtResetDevice(3));
  OK(aclrtSetCurrentContext(first));
  OK(aclrtResetDevice(0));
  OK(aclFinalize());
}

CASE(a_stream_is_used_in_its_own_context) {
  start();
  aclrtStream stream = nullptr;
  OK(aclrtCreateStream(&stream));
  OK(aclrtSetDevice(1));
  EQUAL(aclrtSynchronizeStream(stream), ACL_ERROR_RT_STREAM_CONTEXT);
  ERROR_SAYS("its device is 0, the thread's 1");
  aclrtEvent event = nullptr;
  OK(aclrtCreateEvent(&event));
  EQUAL(aclrtRecordEvent(event, stream), ACL_ERROR_RT_STREAM_CONTEXT);
  OK(aclrtSetDevice(0));
  OK(aclrtSynchronizeStream(stream));
  OK(aclrtResetDevice(0));
  EQUAL(hostcann::enqueue(stream, [] {}), ACL_ERROR_RT_INVALID_HANDLE);
}

CASE(streams_refuse_settings_that_are_lacking) {
  start();
  aclrtStream stream = &stream;
  EQUAL(aclrtCreateStreamWithConfig(&stream, 8, 0), ACL_ERROR_RT_PARAM_INVALID);
  EQUAL(stream, nullptr);
  EQUAL(aclrtCreateStreamWithConfig(&stream, 0, ACL_STREAM_CPU_SCHEDULE), ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
  OK(aclrtCreateStreamWithConfig(&stream, 7, ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC));
  OK(aclrtDestroyStream(stream));
}

CASE(options_are_of_the_process_or_the_context) {
  int64_t value = 5;
  OK(aclrtGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value));
  EQUAL(value, 0);
  value = 5;
  EQUAL(aclrtGetSysParamOpt(static_cast<aclSysParamOpt>(3), &value), ACL_ERROR_INVALID_PARAM);
  EQUAL(value, 0);
  OK(aclrtSetSysParamOpt(ACL_OPT_DETERMINISTIC, 1));
  OK(aclrtGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value));
  EQUAL(value, 1);
  EQUAL(aclrtSetSysParamOpt(ACL_OPT_DETERMINISTIC, 2), ACL_ERROR_INVALID_PARAM);
  EQUAL(aclrtSetSysParamOpt(static_cast<aclSysParamOpt>(3), 1), ACL_ERROR_INVALID_PARAM);
  EQUAL(aclrtCtxSetSysParamOpt(ACL_OPT_DETERMINISTIC, 1), ACL_ERROR_RT_CONTEXT_NULL);
  start();
  EQUAL(aclrtCtxGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value), ACL_ERROR_RT_SYSPARAMOPT_NOT_SET);
  OK(aclrtCtxSetSysParamOpt(ACL_OPT_DETERMINISTIC, 1));
  OK(aclrtSetDevice(1));
  EQUAL(aclrtCtxGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value), ACL_ERROR_RT_SYSPARAMOPT_NOT_SET);
  OK(aclrtSetDevice(0));
  OK(aclrtCtxGetSysParamOpt(ACL_OPT_DETERMINISTIC, &value));
  EQUAL(value, 1);
}

CASE(the_recent_error_is_the_threads_and_is_told_once) {
  EQUAL(said(), "nothing");
  EQUAL(aclrtSetDevice(0), ACL_ERROR_UNINITIALIZE);
  std::thread([] { EQUAL(said(), "nothing"); }).join();
  EQUAL(said(), "aclrtSetDevice: aclInit was not called before [100001]");
  EQUAL(said(), "nothing");
}

CASE(questions_about_a_device_are_answered) {
  start();
  int64_t value = -1;
  for (const auto info : {ACL_DEVICE_INFO_AI_CORE_NUM, ACL_DEVICE_INFO_VECTOR_CORE_NUM, ACL_DEVICE_INFO_L2_SIZE}) {
    OK(aclGetDeviceCapability(0, info, &value));
    EQUAL(value > 0, true);
  }
  EQUAL(aclGetDeviceCapability(0, ACL_DEVICE_INFO_UNDEFINED, &value), ACL_ERROR_INVALID_PARAM);
  EQUAL(value, 0);
  EQUAL(aclGetDeviceCapability(8, ACL_DEVICE_INFO_L2_SIZE, &value), ACL_ERROR_RT_INVALID_DEVICEID);
  int32_t answer = -1;
  OK(aclrtDeviceCanAccessPeer(&answer, 0, 7));
  EQUAL(answer, 1);
  OK(aclrtDeviceCanAccessPeer(&answer, 2, 2));
  EQUAL(answer, 0);
  EQUAL(aclrtDeviceCanAccessPeer(&answer, 0, 8), ACL_ERROR_RT_INVALID_DEVICEID);
  OK(aclrtDeviceEnablePeerAccess(1, 0));
  EQUAL(aclrtDeviceEnablePeerAccess(0, 0), ACL_ERROR_RT_INVALID_DEVICEID);
  OK(aclrtDeviceGetBareTgid(&answer));
  EQUAL(answer, getpid());
  OK(aclrtGetPhyDevIdByLogicDevId(5, &answer));
  EQUAL(answer, 5);
  OK(aclrtSetDeviceSatMode(ACL_RT_OVERFLOW_MODE_INFNAN));
  EQUAL(aclrtSetDeviceSatMode(ACL_RT_OVERFLOW_MODE_SATURATION), ACL_ERROR_RT_FEATURE_NOT_SUPPORT);
  aclrtRunMode mode{};
  OK(aclrtGetRunMode(&mode));
  EQUAL(mode, ACL_HOST);
}

CASE(numbers_have_their_sizes) {
  EQUAL(aclDataTypeSize(ACL_FLOAT), 4u);
  EQUAL(aclDataTypeSize(ACL_BF16), 2u);
  EQUAL(aclDataTypeSize(ACL_BOOL), 1u);
  EQUAL(aclDataTypeSize(ACL_COMPLEX128), 16u);
  EQUAL(aclDataTypeSize(ACL_STRING), 0u);
  EQUAL(aclFloatToFloat16(1.0f), 0x3c00);
  EQUAL(aclFloatToFloat16(65520.0f), 0x7c00);        // rounds up to infinity
  EQUAL(aclFloatToFloat16(1.00048828125f), 0x3c00);  // a tie, to even
  EQUAL(aclFloat16ToFloat(0x0001), std::ldexp(1.0f, -24));
  EQUAL(std::isnan(aclFloat16ToFloat(aclFloatToFloat16(NAN))), true);
}

CASE(what_the_environment_says_is_the_machine) {
  const int expected = std::atoi(std::getenv("EXPECTED"));
  EQUAL(aclInit(nullptr), expected);
  if (expected != 0) std::cout << said() << std::endl;
  const char* soc = aclrtGetSocName();
  std::cout << "soc " << (soc == nullptr ? "null" : soc) << std::endl;
  uint32_t count = 99;
  EQUAL(aclrtGetDeviceCount(&count), expected);
  std::cout << "devices " << count << std::endl;
  EQUAL(aclrtSetDevice(0), expected == 0 ? ACL_SUCCESS : ACL_ERROR_UNINITIALIZE);
}
