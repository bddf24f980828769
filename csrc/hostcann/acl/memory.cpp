#include "hostcann/acl/memory.h"

#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

#include "hostcann/acl/context.h"
#include "hostcann/acl/environment.h"
#include "hostcann/acl/fault.h"
#include "hostcann/acl/stream.h"

namespace {

using namespace hostcann;

constexpr std::size_t kAlignment = 512;  // of what aclrtMalloc returns on a card
constexpr int32_t kHost = -1;

struct Block {
  std::size_t size;      // as asked for: what lies behind is nobody's
  std::size_t reserved;  // as counted against the device's memory
  int32_t device;
};

struct Memory {
  std::mutex mutex;
  std::map<uintptr_t, Block> blocks;  // by first byte
  std::map<int32_t, std::size_t> used;
};
Memory& memory() {
  static Memory* const all = new Memory;
  return *all;
}

// The block that holds the range, or null. With the lock held.
const Block* holding(const void* pointer, std::size_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(pointer);
  auto next = memory().blocks.upper_bound(first);
  if (next == memory().blocks.begin()) return nullptr;
  const auto& [start, block] = *--next;
  const uintptr_t offset = first - start;
  return offset <= block.size && bytes <= block.size - offset ? &block : nullptr;
}

aclError allocate(const char* function, void** pointer, std::size_t size, std::size_t reserved, int32_t device) {
  const std::lock_guard lock(memory().mutex);
  std::size_t& used = memory().used[device];
  if (device != kHost && reserved > environment().memory - used) {
    return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION, std::string(function) + ": size=" + std::to_string(size) +
                                                      " does not fit: device " + std::to_string(device) + " has " +
                                                      std::to_string(environment().memory - used) + " of " +
                                                      std::to_string(environment().memory) + " bytes free");
  }
  if (const auto fault = strike(FaultPoint::kMemory, function, device)) {
    return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                  std::string(function) + ": size=" + std::to_string(size) + " is refused, " + fault->message);
  }
  void* const made = std::aligned_alloc(kAlignment, (reserved + kAlignment - 1) / kAlignment * kAlignment);
  if (made == nullptr) {
    return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION,
                  std::string(function) + ": size=" + std::to_string(size) + ": the host has no such memory free");
  }
  memory().blocks[reinterpret_cast<uintptr_t>(made)] = {size, reserved, device};
  used += reserved;
  *pointer = made;
  return ACL_SUCCESS;
}

aclError allocate_on_device(const char* function, void** pointer, std::size_t size, aclrtMemMallocPolicy policy,
                            std::size_t padding) {
  if (pointer == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, std::string(function) + ": devPtr is null");
  *pointer = nullptr;
  if (size == 0) return refuse(ACL_ERROR_INVALID_PARAM, std::string(function) + ": size=0 must be above 0");
  constexpr uint32_t kModifiers =
      ACL_MEM_TYPE_LOW_BAND_WIDTH | ACL_MEM_TYPE_HIGH_BAND_WIDTH | ACL_MEM_ACCESS_USER_SPACE_READONLY;
  if ((static_cast<uint32_t>(policy) & ~kModifiers) > ACL_MEM_MALLOC_HUGE1G_ONLY_P2P) {
    return refuse(ACL_ERROR_INVALID_PARAM,
                  std::string(function) + ": policy=" + std::to_string(policy) + " is not a memory policy");
  }
  const auto context = current_context();
  if (context == nullptr) return no_context(function);
  if (size > environment().memory) {  // first, so that the rounding below cannot overflow
    return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION, std::string(function) + ": size=" + std::to_string(size) +
                                                      " does not fit the device's " +
                                                      std::to_string(environment().memory) + " bytes");
  }
  return allocate(function, pointer, size, (size + 31) / 32 * 32 + padding, context->device);
}

aclError release(const char* function, void* pointer, bool host) {
  if (pointer == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, std::string(function) + ": the pointer is null");
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().blocks.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == memory().blocks.end() || (found->second.device == kHost) != host) {
    return refuse(ACL_ERROR_RT_PARAM_INVALID, std::string(function) + ": the pointer is not the start of " +
                                                  (host ? "aclrtMallocHost's" : "device") +
                                                  " memory, or was freed before");
  }
  memory().used[found->second.device] -= found->second.reserved;
  memory().blocks.erase(found);
  std::free(pointer);
  return ACL_SUCCESS;
}

}  // namespace

namespace hostcann {

std::optional<int32_t> device_of(const void* pointer, std::size_t bytes) {
  const std::lock_guard lock(memory().mutex);
  const Block* const block = holding(pointer, bytes);
  return block == nullptr || block->device == kHost ? std::nullopt : std::optional(block->device);
}

bool touches_device(const void* pointer, std::size_t bytes) {
  const auto first = reinterpret_cast<uintptr_t>(pointer);
  const std::lock_guard lock(memory().mutex);
  auto next = memory().blocks.upper_bound(first);
  if (next != memory().blocks.begin()) --next;
  for (; next != memory().blocks.end() && next->first < first + bytes; ++next) {
    if (next->second.device != kHost && first < next->first + next->second.size) return true;
  }
  return false;
}

bool is_pinned(const void* pointer, std::size_t bytes) {
  const std::lock_guard lock(memory().mutex);
  const Block* const block = holding(pointer, bytes);
  return block != nullptr && block->device == kHost;
}

bool is_device_pointer(const void* pointer, std::size_t bytes) { return device_of(pointer, bytes).has_value(); }

}  // namespace hostcann

aclError aclrtMalloc(void** devPtr, size_t size, aclrtMemMallocPolicy policy) {
  return allocate_on_device("aclrtMalloc", devPtr, size, policy, 32);
}

aclError aclrtMallocAlign32(void** devPtr, size_t size, aclrtMemMallocPolicy policy) {
  return allocate_on_device("aclrtMallocAlign32", devPtr, size, policy, 0);
}

aclError aclrtFree(void* devPtr) { return release("aclrtFree", devPtr, false); }

aclError aclrtMallocHost(void** hostPtr, size_t size) {
  if (hostPtr == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtMallocHost: hostPtr is null");
  *hostPtr = nullptr;
  if (size == 0) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtMallocHost: size=0 must be above 0");
  if (size > SIZE_MAX - kAlignment) {
    return refuse(ACL_ERROR_RT_MEMORY_ALLOCATION, "aclrtMallocHost: size=" + std::to_string(size) + " does not fit");
  }
  return allocate("aclrtMallocHost", hostPtr, size, size, kHost);
}

aclError aclrtFreeHost(void* hostPtr) { return release("aclrtFreeHost", hostPtr, true); }

aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t* free, size_t* total) {
  if (free == nullptr || total == nullptr) {
    return refuse(ACL_ERROR_INVALID_PARAM,
                  std::string("aclrtGetMemInfo: ") + (free == nullptr ? "free" : "total") + " is null");
  }
  *free = *total = 0;
  if (attr < ACL_DDR_MEM || attr > ACL_MEM_P2P_HUGE1G) {
    return refuse(ACL_ERROR_INVALID_PARAM, "aclrtGetMemInfo: attr=" + std::to_string(attr) + " is unknown");
  }
  const auto context = current_context();
  if (context == nullptr) return no_context("aclrtGetMemInfo");
  const std::lock_guard lock(memory().mutex);
  *total = environment().memory;
  *free = *total - memory().used[context->device];
  return ACL_SUCCESS;
}

aclError aclrtPointerGetAttributes(const void* ptr, aclrtPtrAttributes* attributes) {
  if (attributes == nullptr) {
    return refuse(ACL_ERROR_INVALID_PARAM, "aclrtPointerGetAttributes: attributes is null");
  }
  *attributes = {{0, ACL_MEM_LOCATION_TYPE_UNREGISTERED}, 4096, {}};
  if (ptr == nullptr) return refuse(ACL_ERROR_INVALID_PARAM, "aclrtPointerGetAttributes: ptr is null");
  if (const auto device = device_of(ptr, 1)) {
    attributes->location = {static_cast<uint32_t>(*device), ACL_MEM_LOCATION_TYPE_DEVICE};
  } else if (is_pinned(ptr, 1)) {
    attributes->location = {0, ACL_MEM_LOCATION_TYPE_HOST};
  }
  return ACL_SUCCESS;
}
