// The calls on streams.
#include "hostcann/acl/stream.h"

#include <system_error>
#include <utility>

#include "hostcann/acl/context.h"
#include "hostcann/acl/stream_calls.h"

namespace hostcann {

aclError push(const char* function, Stream& stream, std::function<void()> work, bool always) {
  try {
    if (stream.worker.push(std::move(work), always)) return ACL_SUCCESS;
    return refuse(ACL_ERROR_RT_INVALID_HANDLE, std::string(function) + ": stream is being destroyed");
  } catch (const std::system_error& error) {
    return refuse(ACL_ERROR_RT_RESOURCE_ALLOC_FAIL,
                  std::string(function) + ": the stream's thread cannot be started: " + error.what());
  }
}

aclError enqueue(aclrtStream handle, std::function<void()> work) {
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("enqueue", handle, false, &stream)) return code;
  return push("enqueue", *stream, std::move(work), false);
}

aclError synchronize(const char* function, Stream& stream, int32_t timeout) {
  if (timeout < -1) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID,
                  std::string(function) + ": timeout=" + std::to_string(timeout) + " must be at least -1");
  }
  if (stream.worker.is_this_thread()) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, std::string(function) + ": called by the stream's own work");
  }
  if (!stream.worker.drain(in_milliseconds(timeout))) {
    return refuse(ACL_ERROR_RT_STREAM_SYNC_TIMEOUT,
                  std::string(function) + ": the stream is not done within " + std::to_string(timeout) + " ms");
  }
  const Failure failure = stream.worker.failure();
  if (failure.code != 0) set_error(failure.message);
  return failure.code;
}

}  // namespace hostcann

using namespace hostcann;

aclError aclrtCreateStream(aclrtStream* stream) {
  if (stream == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtCreateStream: stream is null");
  *stream = nullptr;
  return add_stream("aclrtCreateStream", stream);
}

aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t priority, uint32_t flag) {
  if (stream == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtCreateStreamWithConfig: stream is null");
  *stream = nullptr;
  if (priority > 7) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID,
                  "aclrtCreateStreamWithConfig: priority=" + std::to_string(priority) + " must be from 0 to 7");
  }
  // Speed only. A stream that the program or a CPU schedules would never run here.
  constexpr uint32_t kHonoured =
      ACL_STREAM_FAST_LAUNCH | ACL_STREAM_FAST_SYNC | ACL_STREAM_PERSISTENT | ACL_STREAM_HUGE;
  if ((flag & ~kHonoured) != 0) {
    return refuse(ACL_ERROR_RT_FEATURE_NOT_SUPPORT,
                  "aclrtCreateStreamWithConfig: flag=" + std::to_string(flag) + " has bits that host CANN lacks");
  }
  return add_stream("aclrtCreateStreamWithConfig", stream);
}

aclError aclrtDestroyStream(aclrtStream stream) { return remove_stream("aclrtDestroyStream", stream, false); }

aclError aclrtDestroyStreamForce(aclrtStream stream) { return remove_stream("aclrtDestroyStreamForce", stream, true); }

aclError aclrtSetStreamFailureMode(aclrtStream handle, uint64_t mode) {
  if (mode != ACL_CONTINUE_ON_FAILURE && mode != ACL_STOP_ON_FAILURE) {
    return refuse(ACL_ERROR_INVALID_PARAM,
                  "aclrtSetStreamFailureMode: mode=" + std::to_string(mode) + " must be 0 (continue) or 1 (stop)");
  }
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtSetStreamFailureMode", handle, true, &stream)) return code;
  stream->worker.stop_on_failure(mode == ACL_STOP_ON_FAILURE);
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeStream(aclrtStream handle) {
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtSynchronizeStream", handle, true, &stream)) return code;
  return synchronize("aclrtSynchronizeStream", *stream, -1);
}

aclError aclrtSynchronizeStreamWithTimeout(aclrtStream handle, int32_t timeout) {
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtSynchronizeStreamWithTimeout", handle, true, &stream)) return code;
  return synchronize("aclrtSynchronizeStreamWithTimeout", *stream, timeout);
}

aclError aclrtStreamQuery(aclrtStream handle, aclrtStreamStatus* status) {
  if (status == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtStreamQuery: status is null");
  *status = ACL_STREAM_STATUS_RESERVED;
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtStreamQuery", handle, true, &stream)) return code;
  *status = stream->worker.idle() ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) {
  const auto context = current_context();
  if (context == nullptr) return no_context("aclrtSynchronizeDeviceWithTimeout");
  const Deadline deadline = in_milliseconds(timeout);
  for (const auto& stream : streams_of_device(context->device)) {
    int32_t left = timeout;
    if (timeout > 0) {
      const auto rest = std::chrono::duration_cast<std::chrono::milliseconds>(*deadline - Clock::now()).count();
      left = rest > 0 ? static_cast<int32_t>(rest) : 0;
    }
    if (const aclError code = synchronize("aclrtSynchronizeDeviceWithTimeout", *stream, left)) return code;
  }
  return ACL_SUCCESS;
}

aclError aclrtSynchronizeDevice() { return aclrtSynchronizeDeviceWithTimeout(-1); }
