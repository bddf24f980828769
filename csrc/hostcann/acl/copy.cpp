// Copies and fills: every argument is checked against what memory is where.
#include <cstring>
#include <string>

#include "hostcann/acl/memory.h"
#include "hostcann/acl/stream.h"
#include "hostcann/acl/stream_calls.h"

namespace {

using namespace hostcann;

struct Sides {
  bool from_device, to_device;
};

aclError sides_of(const std::string& function, const void* dst, const void* src, std::size_t count,
                  aclrtMemcpyKind kind, Sides* sides) {
  switch (kind) {
    case ACL_MEMCPY_HOST_TO_HOST:
      *sides = {false, false};
      return ACL_SUCCESS;
    case ACL_MEMCPY_HOST_TO_DEVICE:
    case ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE:
      *sides = {false, true};
      return ACL_SUCCESS;
    case ACL_MEMCPY_DEVICE_TO_HOST:
      *sides = {true, false};
      return ACL_SUCCESS;
    case ACL_MEMCPY_DEVICE_TO_DEVICE:
    case ACL_MEMCPY_INNER_DEVICE_TO_DEVICE:
    case ACL_MEMCPY_INTER_DEVICE_TO_DEVICE:
      *sides = {true, true};
      return ACL_SUCCESS;
    case ACL_MEMCPY_DEFAULT:
      *sides = {touches_device(src, count), touches_device(dst, count)};
      return ACL_SUCCESS;
  }
  return refuse(ACL_ERROR_INVALID_PARAM, function + ": kind=" + std::to_string(kind) + " is not a kind of copy");
}

aclError check_range(const std::string& function, const char* name, const void* pointer, std::size_t count, bool device,
                     aclrtMemcpyKind kind) {
  const bool right = device ? is_device_pointer(pointer, count) : !touches_device(pointer, count);
  if (right) return ACL_SUCCESS;
  return refuse(ACL_ERROR_RT_PARAM_INVALID,
                function + ": " + name + " with count=" + std::to_string(count) +
                    (device ? " does not lie within one block of device memory" : " is device memory") +
                    ", but kind=" + std::to_string(kind) + " wants " + (device ? "it there" : "host memory"));
}

aclError check_size(const std::string& function, const void* pointer, const char* name, std::size_t limit,
                    const char* limit_name, std::size_t count) {
  if (pointer == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, function + ": " + name + " is null");
  if (count == 0 || count > limit) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, function + ": count=" + std::to_string(count) +
                                                  " must be above 0 and at most " + limit_name + "=" +
                                                  std::to_string(limit));
  }
  return current_context() == nullptr ? no_context(function.c_str()) : ACL_SUCCESS;
}

aclError check_copy(const std::string& function, const void* dst, std::size_t dest_max, const void* src,
                    std::size_t count, aclrtMemcpyKind kind) {
  if (const aclError code = check_size(function, dst, "dst", dest_max, "destMax", count)) return code;
  if (src == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, function + ": src is null");
  Sides sides{};
  if (const aclError code = sides_of(function, dst, src, count, kind, &sides)) return code;
  if (const aclError code = check_range(function, "dst", dst, count, sides.to_device, kind)) return code;
  if (const aclError code = check_range(function, "src", src, count, sides.from_device, kind)) return code;
  if (kind == ACL_MEMCPY_INNER_DEVICE_TO_DEVICE || kind == ACL_MEMCPY_INTER_DEVICE_TO_DEVICE) {
    const bool inner = kind == ACL_MEMCPY_INNER_DEVICE_TO_DEVICE;
    if ((device_of(dst, count) == device_of(src, count)) != inner) {
      return refuse(ACL_ERROR_RT_PARAM_INVALID, function + ": dst and src must be memory of " +
                                                    (inner ? "one device" : "two devices") +
                                                    ", as kind=" + std::to_string(kind) + " says");
    }
  }
  return ACL_SUCCESS;
}

aclError check_fill(const std::string& function, void* pointer, std::size_t max_count, std::size_t count) {
  if (const aclError code = check_size(function, pointer, "devPtr", max_count, "maxCount", count)) return code;
  if (touches_device(pointer, count) && !is_device_pointer(pointer, count)) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID,
                  function + ": devPtr with count=" + std::to_string(count) + " leaves its block of device memory");
  }
  return ACL_SUCCESS;
}

}  // namespace

aclError aclrtMemcpy(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind) {
  if (const aclError code = check_copy("aclrtMemcpy", dst, destMax, src, count, kind)) return code;
  std::memmove(dst, src, count);
  return ACL_SUCCESS;
}

aclError aclrtMemcpyAsync(void* dst, size_t destMax, const void* src, size_t count, aclrtMemcpyKind kind,
                          aclrtStream handle) {
  if (const aclError code = check_copy("aclrtMemcpyAsync", dst, destMax, src, count, kind)) return code;
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtMemcpyAsync", handle, true, &stream)) return code;
  const auto copy = [dst, src, count] { std::memmove(dst, src, count); };
  if (const aclError code = push("aclrtMemcpyAsync", *stream, copy)) return code;
  // The copy engine reaches pinned memory only: a copy that touches other host memory is over when the call returns.
  const auto free_for_engine = [count](const void* each) {
    return is_device_pointer(each, count) || is_pinned(each, count);
  };
  if (free_for_engine(dst) && free_for_engine(src)) return ACL_SUCCESS;
  return synchronize("aclrtMemcpyAsync", *stream, -1);
}

aclError aclrtMemset(void* devPtr, size_t maxCount, int32_t value, size_t count) {
  if (const aclError code = check_fill("aclrtMemset", devPtr, maxCount, count)) return code;
  std::memset(devPtr, value, count);
  return ACL_SUCCESS;
}

aclError aclrtMemsetAsync(void* devPtr, size_t maxCount, int32_t value, size_t count, aclrtStream handle) {
  if (const aclError code = check_fill("aclrtMemsetAsync", devPtr, maxCount, count)) return code;
  std::shared_ptr<Stream> stream;
  if (const aclError code = find_stream("aclrtMemsetAsync", handle, true, &stream)) return code;
  return push("aclrtMemsetAsync", *stream, [devPtr, value, count] { std::memset(devPtr, value, count); });
}
