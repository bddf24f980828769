#include "hostcann/acl/context.h"

#include <mutex>
#include <unordered_map>
#include <utility>

#include "hostcann/acl/environment.h"
#include "hostcann/acl/process.h"
#include "hostcann/acl/stream.h"

namespace hostcann {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<Context*, std::shared_ptr<Context>> contexts;
  std::unordered_map<Stream*, std::shared_ptr<Stream>> streams;  // default streams are in it too
  std::map<int32_t, Context*> defaults;                          // by device
};
Registry& registry() {
  static Registry* const living = new Registry;  // worker threads may outlive main
  return *living;
}

thread_local std::weak_ptr<Context> current;

// With the lock held.
std::shared_ptr<Context> add_context(int32_t device, bool is_default) {
  auto context = std::make_shared<Context>();
  context->device = device;
  context->is_default = is_default;
  context->default_stream = std::make_shared<Stream>(context.get(), device);
  registry().streams[context->default_stream.get()] = context->default_stream;
  registry().contexts[context.get()] = context;
  return context;
}

// Take a context and its streams out, then let the streams work off what they have.
void end_context(Context* context) {
  std::vector<std::shared_ptr<Stream>> streams;
  std::shared_ptr<Context> ended;
  {
    const std::lock_guard lock(registry().mutex);
    const auto found = registry().contexts.find(context);
    if (found == registry().contexts.end()) return;
    ended = std::move(found->second);
    registry().contexts.erase(found);
    if (ended->is_default) registry().defaults.erase(ended->device);
    std::erase_if(registry().streams, [&](const auto& each) {
      if (each.first->context != context) return false;
      streams.push_back(each.second);
      return true;
    });
  }
  for (const auto& stream : streams) stream->worker.finish(false);
}

}  // namespace

std::shared_ptr<Context> current_context() {
  const std::lock_guard lock(registry().mutex);
  auto context = current.lock();
  return context != nullptr && registry().contexts.contains(context.get()) ? context : nullptr;
}

aclError no_context(const char* function) {
  return refuse(ACL_ERROR_RT_CONTEXT_NULL,
                std::string(function) + ": this thread has no context; call aclrtSetDevice or aclrtSetCurrentContext");
}

aclError check_device(const char* function, int32_t device) {
  if (const aclError code = check_running(function)) return code;
  if (device < 0 || static_cast<uint32_t>(device) >= environment().devices) {
    return refuse(ACL_ERROR_RT_INVALID_DEVICEID, std::string(function) + ": deviceId=" + std::to_string(device) +
                                                     " must be at least 0 and below the " +
                                                     std::to_string(environment().devices) +
                                                     " devices of this machine");
  }
  return ACL_SUCCESS;
}

aclError find_stream(const char* function, aclrtStream handle, bool same_context, std::shared_ptr<Stream>* stream) {
  const auto context = current_context();
  if (handle == nullptr || same_context) {
    if (context == nullptr) return no_context(function);
  }
  if (handle == nullptr) {
    *stream = context->default_stream;
    return ACL_SUCCESS;
  }
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().streams.find(static_cast<Stream*>(handle));
  if (found == registry().streams.end()) {
    return refuse(ACL_ERROR_RT_INVALID_HANDLE, std::string(function) + ": stream is not a stream that is alive");
  }
  if (same_context && found->second->context != context.get()) {
    return refuse(ACL_ERROR_RT_STREAM_CONTEXT,
                  std::string(function) + ": stream belongs to another context than this thread's (its device is " +
                      std::to_string(found->second->device) + ", the thread's " + std::to_string(context->device) +
                      ")");
  }
  *stream = found->second;
  return ACL_SUCCESS;
}

int32_t device_of_stream(aclrtStream handle) {
  if (handle == nullptr) {
    const auto context = current_context();
    return context == nullptr ? -1 : context->device;
  }
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().streams.find(static_cast<Stream*>(handle));
  return found == registry().streams.end() ? -1 : found->second->device;
}

aclError add_stream(const char* function, aclrtStream* handle) {
  const auto context = current_context();
  if (context == nullptr) return no_context(function);
  auto stream = std::make_shared<Stream>(context.get(), context->device);
  *handle = stream.get();
  const std::lock_guard lock(registry().mutex);
  registry().streams[stream.get()] = std::move(stream);
  return ACL_SUCCESS;
}

aclError remove_stream(const char* function, aclrtStream handle, bool cancel) {
  std::shared_ptr<Stream> stream;
  {
    const std::lock_guard lock(registry().mutex);
    const auto found = registry().streams.find(static_cast<Stream*>(handle));
    if (found == registry().streams.end()) {
      return refuse(ACL_ERROR_RT_INVALID_HANDLE, std::string(function) + ": stream is not a stream that is alive");
    }
    if (found->second->worker.is_this_thread()) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, std::string(function) + ": called by the stream's own work");
    }
    stream = std::move(found->second);
    registry().streams.erase(found);
  }
  stream->worker.finish(cancel);
  return ACL_SUCCESS;
}

std::vector<std::shared_ptr<Stream>> streams_of_device(int32_t device) {
  const std::lock_guard lock(registry().mutex);
  std::vector<std::shared_ptr<Stream>> result;
  for (const auto& each : registry().streams) {
    if (each.second->device == device) result.push_back(each.second);
  }
  return result;
}

void end_all_contexts() {
  std::vector<Context*> contexts;
  {
    const std::lock_guard lock(registry().mutex);
    for (const auto& each : registry().contexts) contexts.push_back(each.first);
  }
  for (Context* const context : contexts) end_context(context);
}

}  // namespace hostcann

using namespace hostcann;

aclError aclrtSetDevice(int32_t deviceId) {
  if (const aclError code = check_device("aclrtSetDevice", deviceId)) return code;
  const std::lock_guard lock(registry().mutex);
  Context*& context = registry().defaults[deviceId];
  if (context == nullptr) context = add_context(deviceId, true).get();
  current = registry().contexts.at(context);
  return ACL_SUCCESS;
}

aclError aclrtGetDevice(int32_t* deviceId) {
  if (deviceId == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetDevice: deviceId is null");
  *deviceId = 0;
  const auto context = current_context();
  if (context == nullptr) return no_context("aclrtGetDevice");
  *deviceId = context->device;
  return ACL_SUCCESS;
}

aclError aclrtResetDevice(int32_t deviceId) {
  if (const aclError code = check_device("aclrtResetDevice", deviceId)) return code;
  Context* context = nullptr;
  {
    const std::lock_guard lock(registry().mutex);
    if (const auto found = registry().defaults.find(deviceId); found != registry().defaults.end()) {
      context = found->second;
    }
  }
  if (context != nullptr) end_context(context);
  return ACL_SUCCESS;
}

aclError aclrtResetDeviceForce(int32_t deviceId) { return aclrtResetDevice(deviceId); }

aclError aclrtCreateContext(aclrtContext* context, int32_t deviceId) {
  if (context == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtCreateContext: context is null");
  *context = nullptr;
  if (const aclError code = check_device("aclrtCreateContext", deviceId)) return code;
  const std::lock_guard lock(registry().mutex);
  const auto made = add_context(deviceId, false);
  current = made;
  *context = made.get();
  return ACL_SUCCESS;
}

aclError aclrtDestroyContext(aclrtContext context) {
  {
    const std::lock_guard lock(registry().mutex);
    const auto found = registry().contexts.find(static_cast<Context*>(context));
    if (found == registry().contexts.end()) {
      return refuse(ACL_ERROR_RT_INVALID_HANDLE, "aclrtDestroyContext: context is not a context that is alive");
    }
    if (found->second->is_default) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID,
                    "aclrtDestroyContext: context is a device's default context, which aclrtResetDevice ends");
    }
  }
  end_context(static_cast<Context*>(context));
  return ACL_SUCCESS;
}

aclError aclrtSetCurrentContext(aclrtContext context) {
  const std::lock_guard lock(registry().mutex);
  const auto found = registry().contexts.find(static_cast<Context*>(context));
  if (found == registry().contexts.end()) {
    return refuse(context == nullptr ? ACL_ERROR_INVALID_PARAM : ACL_ERROR_RT_INVALID_HANDLE,
                  "aclrtSetCurrentContext: context is not a context that is alive");
  }
  current = found->second;
  return ACL_SUCCESS;
}

aclError aclrtGetCurrentContext(aclrtContext* context) {
  if (context == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetCurrentContext: context is null");
  const auto found = current_context();
  *context = found.get();
  return found == nullptr ? no_context("aclrtGetCurrentContext") : ACL_SUCCESS;
}
