// Memory and copies: accounting, what lies where, order on a stream.
#include <chrono>
#include <cstdint>
#include <future>
#include <limits>
#include <string>
#include <thread>

#include "check.h"
#include "hostcann/acl/stream.h"

namespace {

void start() {
  OK(aclInit(nullptr));
  OK(aclrtSetDevice(0));
}

void* device_memory(size_t size) {
  void* made = nullptr;
  OK(aclrtMalloc(&made, size, ACL_MEM_MALLOC_HUGE_FIRST));
  return made;
}

size_t free_memory() {
  size_t free = 0, total = 0;
  OK(aclrtGetMemInfo(ACL_HBM_MEM, &free, &total));
  return free;
}

}  // namespace

// Run with a device of 4096 bytes.
CASE(memory_is_counted_against_each_device) {
  void* none = &none;
  EQUAL(aclrtMalloc(&none, 1, ACL_MEM_MALLOC_HUGE_FIRST), ACL_ERROR_RT_CONTEXT_NULL);
  EQUAL(none, nullptr);
  start();
  EQUAL(free_memory(), 4096u);
  void* const first = device_memory(1000);  // 32 x 32 and the 32 bytes behind it
  EQUAL(reinterpret_cast<uintptr_t>(first) % 512, 0u);
  EQUAL(free_memory(), 4096u - 1024 - 32);
  void* second = nullptr;
  OK(aclrtMallocAlign32(&second, 3040, ACL_MEM_MALLOC_NORMAL_ONLY));
  EQUAL(free_memory(), 0u);
  none = first;
  EQUAL(aclrtMallocAlign32(&none, 1, ACL_MEM_MALLOC_NORMAL_ONLY), ACL_ERROR_RT_MEMORY_ALLOCATION);
  ERROR_SAYS("device 0 has 0 of 4096 bytes free");
  EQUAL(none, nullptr);
  OK(aclrtSetDevice(1));
  EQUAL(free_memory(), 4096u);
  EQUAL(aclrtMalloc(&none, 4096, ACL_MEM_MALLOC_HUGE_FIRST), ACL_ERROR_RT_MEMORY_ALLOCATION);
  EQUAL(aclrtMalloc(&none, std::numeric_limits<size_t>::max(), ACL_MEM_MALLOC_HUGE_FIRST),
        ACL_ERROR_RT_MEMORY_ALLOCATION);
  OK(aclrtFree(first));  // from whatever device is current
  OK(aclrtFree(second));
  OK(aclrtSetDevice(0));
  EQUAL(free_memory(), 4096u);
  EQUAL(aclrtFree(first), ACL_ERROR_RT_PARAM_INVALID);
  ERROR_SAYS("was freed before");
}

CASE(memory_refuses_what_is_wrong) {
  start();
  void* p = &p;
  EQUAL(aclrtMalloc(&p, 0, ACL_MEM_MALLOC_HUGE_FIRST), ACL_ERROR_INVALID_PARAM);
  EQUAL(p, nullptr);
  EQUAL(aclrtMalloc(nullptr, 1, ACL_MEM_MALLOC_HUGE_FIRST), ACL_ERROR_INVALID_PARAM);
  EQUAL(aclrtMalloc(&p, 1, static_cast<aclrtMemMallocPolicy>(8)), ACL_ERROR_INVALID_PARAM);
  EQUAL(aclrtMallocHost(&p, 0), ACL_ERROR_INVALID_PARAM);
  EQUAL(aclrtFree(nullptr), ACL_ERROR_INVALID_PARAM);
  EQUAL(aclrtFree(&p), ACL_ERROR_RT_PARAM_INVALID);
  char* const device = static_cast<char*>(device_memory(64));
  EQUAL(aclrtFree(device + 32), ACL_ERROR_RT_PARAM_INVALID);
  EQUAL(aclrtFreeHost(device), ACL_ERROR_RT_PARAM_INVALID);
  void* host = nullptr;
  OK(aclrtMallocHost(&host, 64));
  EQUAL(aclrtFree(host), ACL_ERROR_RT_PARAM_INVALID);
  aclrtPtrAttributes attributes{};
  OK(aclrtPointerGetAttributes(device, &attributes));
  EQUAL(attributes.location.type, ACL_MEM_LOCATION_TYPE_DEVICE);
  OK(aclrtPointerGetAttributes(host, &attributes));
  EQUAL(attributes.location.type, ACL_MEM_LOCATION_TYPE_HOST);
  OK(aclrtPointerGetAttributes(&host, &attributes));
  EQUAL(attributes.location.type, ACL_MEM_LOCATION_TYPE_UNREGISTERED);
  OK(aclrtFreeHost(host));
  size_t free = 1, total = 1;
  EQUAL(aclrtGetMemInfo(static_cast<aclrtMemAttr>(99), &free, &total), ACL_ERROR_INVALID_PARAM);
  EQUAL(free + total, 0u);
}

CASE(a_device_pointer_lies_within_one_block) {
  start();
  char* const p = static_cast<char*>(device_memory(100));
  EQUAL(hostcann::is_device_pointer(p, 100), true);
  EQUAL(hostcann::is_device_pointer(p + 99, 1), true);
  EQUAL(hostcann::is_device_pointer(p + 100, 0), true);
  EQUAL(hostcann::is_device_pointer(p, 101), false);
  EQUAL(hostcann::is_device_pointer(p + 1, std::numeric_limits<size_t>::max()), false);
  EQUAL(hostcann::is_device_pointer(p - 1, 1), false);
  EQUAL(hostcann::is_device_pointer(nullptr, 0), false);
  void* host = nullptr;
  OK(aclrtMallocHost(&host, 100));
  EQUAL(hostcann::is_device_pointer(host, 1), false);
  OK(aclrtFree(p));
  EQUAL(hostcann::is_device_pointer(p, 1), false);
}

CASE(copies_check_where_memory_is) {
  start();
  char host[64] = "from the host", other[64] = {};
  char* const first = static_cast<char*>(device_memory(64));
  char* const second = static_cast<char*>(device_memory(64));
  OK(aclrtSetDevice(1));
  char* const far = static_cast<char*>(device_memory(64));
  struct {
    aclrtMemcpyKind kind;
    const void* from;
    void* to;
  } const right[] = {
      {ACL_MEMCPY_HOST_TO_DEVICE, host, first},
      {ACL_MEMCPY_DEVICE_TO_DEVICE, first, second},
      {ACL_MEMCPY_INNER_DEVICE_TO_DEVICE, second, first},
      {ACL_MEMCPY_INTER_DEVICE_TO_DEVICE, first, far},
      {ACL_MEMCPY_DEVICE_TO_HOST, far, other},
      {ACL_MEMCPY_HOST_TO_HOST, other, host},
      {ACL_MEMCPY_HOST_TO_BUF_TO_DEVICE, host, first},
      {ACL_MEMCPY_DEFAULT, first, far},
      {ACL_MEMCPY_DEFAULT, far, other},
  };
  for (const auto& each : right) {
    OK(aclrtMemcpy(each.to, 64, each.from, 64, each.kind));
    EQUAL(std::memcmp(each.to, "from the host", 14), 0);
    std::memset(each.to, each.kind, 1);
    OK(aclrtMemcpyAsync(each.to, 64, each.from, 64, each.kind, nullptr));
    OK(aclrtSynchronizeStream(nullptr));
    EQUAL(std::memcmp(each.to, "from the host", 14), 0);
  }
  struct {
    aclrtMemcpyKind kind;
    const void* from;
    void* to;
    int code;
    const char* about;
  } const wrong[] = {
      {ACL_MEMCPY_HOST_TO_DEVICE, first, second, ACL_ERROR_RT_PARAM_INVALID, "src with count=64 is device memory"},
      {ACL_MEMCPY_HOST_TO_DEVICE, host, other, ACL_ERROR_RT_PARAM_INVALID, "dst with count=64 does not lie"},
      {ACL_MEMCPY_DEVICE_TO_HOST, host, other, ACL_ERROR_RT_PARAM_INVALID, "src with count=64 does not lie"},
      {ACL_MEMCPY_DEVICE_TO_HOST, first, second, ACL_ERROR_RT_PARAM_INVALID, "dst with count=64 is device memory"},
      {ACL_MEMCPY_DEVICE_TO_DEVICE, first, host, ACL_ERROR_RT_PARAM_INVALID, "dst with"},
      {ACL_MEMCPY_HOST_TO_HOST, host, first, ACL_ERROR_RT_PARAM_INVALID, "dst with"},
      {ACL_MEMCPY_INNER_DEVICE_TO_DEVICE, first, far, ACL_ERROR_RT_PARAM_INVALID, "one device"},
      {ACL_MEMCPY_INTER_DEVICE_TO_DEVICE, first, second, ACL_ERROR_RT_PARAM_INVALID, "two devices"},
      {ACL_MEMCPY_DEFAULT, first + 1, far, ACL_ERROR_RT_PARAM_INVALID, "src with count=64 does not lie"},
      {ACL_MEMCPY_DEFAULT, nullptr, far, ACL_ERROR_INVALID_PARAM, "src is null"},
      {ACL_MEMCPY_DEFAULT, far, nullptr, ACL_ERROR_INVALID_PARAM, "dst is null"},
      {static_cast<aclrtMemcpyKind>(8), first, far, ACL_ERROR_INVALID_PARAM, "kind=8"},
  };
  for (const auto& each : wrong) {
    EQUAL(aclrtMemcpy(each.to, 64, each.from, 64, each.kind), each.code);
    ERROR_SAYS(each.about);
    EQUAL(aclrtMemcpyAsync(each.to, 64, each.from, 64, each.kind, nullptr), each.code);
    ERROR_SAYS(each.about);
  }
  EQUAL(aclrtMemcpy(first, 63, host, 64, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_PARAM_INVALID);
  ERROR_SAYS("destMax=63");
  EQUAL(aclrtMemcpy(first, 64, host, 0, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_PARAM_INVALID);
  std::thread([&] {
    EQUAL(aclrtMemcpy(first, 64, host, 64, ACL_MEMCPY_HOST_TO_DEVICE), ACL_ERROR_RT_CONTEXT_NULL);
  }).join();
}

CASE(an_asynchronous_copy_reads_pinned_memory_when_its_turn_comes) {
  start();
  aclrtStream stream = nullptr;
  OK(aclrtCreateStream(&stream));
  std::promise<void> open;
  OK(hostcann::enqueue(stream, [wait = open.get_future().share()] { wait.wait(); }));
  void *from = nullptr, *to = nullptr;
  OK(aclrtMallocHost(&from, 8));
  OK(aclrtMallocHost(&to, 8));
  void* const device = device_memory(8);
  std::memset(from, 1, 8);
  std::memset(to, 0, 8);
  OK(aclrtMemcpyAsync(device, 8, from, 8, ACL_MEMCPY_HOST_TO_DEVICE, stream));
  OK(aclrtMemcpyAsync(to, 8, device, 8, ACL_MEMCPY_DEVICE_TO_HOST, stream));
  OK(aclrtMemsetAsync(device, 8, 9, 8, stream));
  std::memset(from, 2, 8);
  EQUAL(static_cast<int>(*static_cast<char*>(to)), 0);
  open.set_value();
  OK(aclrtSynchronizeStream(stream));
  EQUAL(static_cast<int>(*static_cast<char*>(to)), 2);
  char last = 0;
  OK(aclrtMemcpy(&last, 1, static_cast<char*>(device) + 7, 1, ACL_MEMCPY_DEVICE_TO_HOST));
  EQUAL(static_cast<int>(last), 9);
}

CASE(an_asynchronous_copy_with_other_host_memory_is_over_when_it_returns) {
  start();
  aclrtStream stream = nullptr;
  OK(aclrtCreateStream(&stream));
  void* const device = device_memory(8);
  OK(hostcann::enqueue(stream, [device] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::memset(device, 5, 8);
  }));
  char to[8] = {};
  OK(aclrtMemcpyAsync(to, 8, device, 8, ACL_MEMCPY_DEVICE_TO_HOST, stream));
  EQUAL(static_cast<int>(to[7]), 5);
}

CASE(memory_is_filled_within_its_block) {
  start();
  char* const device = static_cast<char*>(device_memory(16));
  OK(aclrtMemset(device, 16, 0x41, 16));
  OK(aclrtMemset(device + 4, 12, 0x42, 4));
  char host[17] = {};
  OK(aclrtMemcpy(host, 16, device, 16, ACL_MEMCPY_DEVICE_TO_HOST));
  EQUAL(std::string(host), "AAAABBBBAAAAAAAA");
  OK(aclrtMemset(host, 16, 0x43, 4));
  EQUAL(std::string(host), "CCCCBBBBAAAAAAAA");
  EQUAL(aclrtMemset(device + 8, 16, 0, 16), ACL_ERROR_RT_PARAM_INVALID);
  ERROR_SAYS("leaves its block");
  EQUAL(aclrtMemset(device, 8, 0, 16), ACL_ERROR_RT_PARAM_INVALID);
  EQUAL(aclrtMemsetAsync(device + 8, 16, 0, 16, nullptr), ACL_ERROR_RT_PARAM_INVALID);
}
