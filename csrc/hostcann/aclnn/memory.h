// Memory of tensors as the kernels want it: views of what is there, and copies in the workspace of what must be
// contiguous and is not.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/fill_params.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/objects.h"

namespace hostcann {

// Hands out aligned pieces of the workspace, as offsets: its address is known in the second phase only.
class Workspace {
 public:
  static constexpr int64_t kAlign = 64;

  int64_t take(int64_t bytes) {
    const int64_t offset = used_;
    used_ += (bytes + kAlign - 1) / kAlign * kAlign;
    return offset;
  }
  // What to ask the caller for, whose memory may have any alignment.
  int64_t bytes() const { return used_ == 0 ? 0 : used_ + kAlign; }

  // An address to plan with, before there is a workspace.
  static char* nowhere() {
    static char somewhere;
    return &somewhere;
  }
  static char* aligned(void* workspace) {
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + kAlign - 1) / kAlign * kAlign);
  }

 private:
  int64_t used_ = 0;
};

// Elements of `bytes` each. No tensor: data is nullptr and there are no elements.
struct Strided {
  char* data = nullptr;  // the first element
  std::vector<int64_t> sizes{0}, strides{1};
  int64_t bytes = 0;

  Strided() = default;
  explicit Strided(const aclTensor* tensor);

  ascendspeed::TensorMemory memory() const { return {data, strides}; }
  ascendspeed::View view(ascendspeed::Layout layout, int64_t head_dim) const {
    return {data, ascendspeed::split_strides(layout, strides.data(), head_dim)};
  }
  ascendspeed::ConstView const_view(ascendspeed::Layout layout, int64_t head_dim) const {
    return {data, ascendspeed::split_strides(layout, strides.data(), head_dim)};
  }
  bool contiguous() const;
  int64_t count() const { return count_elements(sizes); }
  // Writes 0 to the elements from `first` on along the first dimension.
  void zero(int64_t first = 0) const;
};

std::vector<int64_t> row_major(const std::vector<int64_t>& sizes);

// A tensor that a kernel takes contiguous only: itself where it is, else a copy.
class Contiguous {
 public:
  Contiguous() = default;
  Contiguous(const aclTensor* tensor, Workspace* workspace);

  // Where the kernel finds it; `workspace` is aligned.
  char* data(char* workspace) const { return copied_ ? workspace + offset_ : original_.data; }
  void copy_in(char* workspace) const;
  void copy_out(char* workspace) const;
  const Strided& original() const { return original_; }

 private:
  Strided copy(char* workspace) const;

  Strided original_;
  bool copied_ = false;
  int64_t offset_ = 0;
};

// The memory from the first to the last element of a tensor whose bounds have been checked; empty for none.
ACL_FUNC_VISIBILITY MemoryRange range_of(const char* name, const aclTensor* tensor);

}  // namespace hostcann
