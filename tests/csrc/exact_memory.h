// Heap memory of exactly the bytes asked for, so that one byte too far is seen.
//
// AddressSanitizer surrounds every heap block with red zones. Without it the block has canaries on both sides, which
// catch writes.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

// GCC says so by a macro, Clang by a feature.
#if defined(__SANITIZE_ADDRESS__)
#define ASCENDSPEED_RED_ZONES
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ASCENDSPEED_RED_ZONES
#endif
#endif

namespace ascendspeed::test {

class ExactMemory {
 public:
#ifdef ASCENDSPEED_RED_ZONES
  static constexpr int64_t kMargin = 0;
#else
  static constexpr int64_t kMargin = 64;
#endif
  static constexpr int kCanary = 0xA5;
  // What memory holds that nobody wrote: NaN in every float format.
  static constexpr int kPoison = 0xFF;
  static constexpr std::align_val_t kAlign{64};

  // 64-byte aligned and poisoned.
  explicit ExactMemory(int64_t bytes)
      : bytes_(bytes), block_(static_cast<uint8_t*>(::operator new(static_cast<size_t>(bytes + 2 * kMargin), kAlign))) {
    std::memset(block_.get(), kCanary, static_cast<size_t>(bytes + 2 * kMargin));
    std::memset(data(), kPoison, static_cast<size_t>(bytes));
  }

  uint8_t* data() const { return block_.get() + kMargin; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data());
  }
  int64_t bytes() const { return bytes_; }

  bool margins_intact() const {
    for (int64_t i = 0; i < kMargin; ++i) {
      if (block_.get()[i] != kCanary || data()[bytes_ + i] != kCanary) return false;
    }
    return true;
  }

 private:
  struct Free {
    void operator()(uint8_t* block) const { ::operator delete(block, kAlign); }
  };

  int64_t bytes_;
  std::unique_ptr<uint8_t, Free> block_;
};

}  // namespace ascendspeed::test
