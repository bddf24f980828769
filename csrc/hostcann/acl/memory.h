// What is device memory, and what is host memory that a device reaches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace hostcann {

// The device whose memory holds [pointer, pointer + bytes), if that lies within one living block.
std::optional<int32_t> device_of(const void* pointer, std::size_t bytes);

// Whether any byte of [pointer, pointer + bytes) is device memory.
bool touches_device(const void* pointer, std::size_t bytes);

// Whether the range lies within one block of aclrtMallocHost, which copies reach without the host's help.
bool is_pinned(const void* pointer, std::size_t bytes);

}  // namespace hostcann
