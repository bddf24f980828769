// A small attention problem with its tensors on the current device, for programs about the two phases of a call.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_flash_attention_score.h"
#include "aclnnop/aclnn_flash_attention_score_grad.h"

inline void check(int code, const char* call) {
  if (code == ACL_SUCCESS) return;
  const char* message = aclGetRecentErrMsg();
  std::printf("%s failed: %d %s\n", call, code, message == nullptr ? "" : message);
  std::exit(1);
}

inline void print(const char* what, int code) {
  const char* message = aclGetRecentErrMsg();
  std::printf("%s %d %s\n", what, code, code == 0 || message == nullptr ? "" : message);
}

constexpr int64_t kHeads = 2, kLength = 64, kSize = 16;
inline char layout[] = "BNSD";

struct Tensor {
  Tensor(std::vector<int64_t> sizes, float value, bool host = false) : sizes_(std::move(sizes)), host_(host) {
    count_ = 1;
    for (int64_t size : sizes_) count_ *= size;
    check(host ? aclrtMallocHost(&data_, bytes()) : aclrtMalloc(&data_, bytes(), ACL_MEM_MALLOC_HUGE_FIRST), "malloc");
    fill(value);
  }
  ~Tensor() { check(host_ ? aclrtFreeHost(data_) : aclrtFree(data_), "free"); }
  Tensor(const Tensor&) = delete;

  // `value`, and a little more that differs between neighbours.
  void fill(float value) {
    std::vector<float> values(count_, value);
    for (int64_t i = 0; i < count_; ++i) values[i] += 0.01f * static_cast<float>(i % 7);
    const auto kind = host_ ? ACL_MEMCPY_HOST_TO_HOST : ACL_MEMCPY_HOST_TO_DEVICE;
    check(aclrtMemcpy(data_, bytes(), values.data(), bytes(), kind), "aclrtMemcpy");
  }

  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(float); }

  // A new description each time: the caller destroys it.
  aclTensor* describe() const {
    std::vector<int64_t> strides(sizes_.size(), 1);
    for (size_t dim = sizes_.size() - 1; dim > 0; --dim) strides[dim - 1] = strides[dim] * sizes_[dim];
    return aclCreateTensor(sizes_.data(), sizes_.size(), ACL_FLOAT, strides.data(), 0, ACL_FORMAT_ND, sizes_.data(),
                           sizes_.size(), data_);
  }

  std::vector<float> values() const {
    std::vector<float> result(count_);
    check(aclrtMemcpy(result.data(), bytes(), data_, bytes(), ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
    return result;
  }

 private:
  std::vector<int64_t> sizes_;
  bool host_;
  int64_t count_;
  void* data_ = nullptr;
};

inline const std::vector<int64_t> kShape{1, kHeads, kLength, kSize}, kStatShape{1, kHeads, kLength, 8};

struct Problem {
  explicit Problem(bool host_query = false) : query(kShape, 0.5f, host_query) {}

  Tensor query, key{kShape, 0.25f}, value{kShape, 1.0f}, dy{kShape, 1.0f};
  Tensor max{kStatShape, -1.0f}, sum{kStatShape, -1.0f}, out{kShape, -1.0f};
  Tensor dq{kShape, -1.0f}, dk{kShape, -1.0f}, dv{kShape, -1.0f};
  aclrtStream stream = nullptr;

  // First phases, with their codes. The descriptions are gone once the second phase has returned, or here where there
  // is none.
  int first_forward(uint64_t* bytes, aclOpExecutor** executor) {
    aclTensor** t = describe({&query, &key, &value, &max, &sum, &out});
    return aclnnFlashAttentionScoreGetWorkspaceSize(t[0], t[1], t[2], nullptr, nullptr, nullptr, nullptr, nullptr, 0.25,
                                                    1.0, 2147483647, 2147483647, kHeads, layout, 0, 0, t[3], t[4],
                                                    nullptr, t[5], bytes, executor);
  }

  int first_backward(uint64_t* bytes, aclOpExecutor** executor) {
    aclTensor** t = describe({&query, &key, &value, &dy, &max, &sum, &out, &dq, &dk, &dv});
    return aclnnFlashAttentionScoreGradGetWorkspaceSize(
        t[0], t[1], t[2], t[3], nullptr, nullptr, nullptr, nullptr, t[4], t[5], nullptr, t[6], nullptr, 0.25, 1.0,
        2147483647, 2147483647, kHeads, layout, 0, 0, t[7], t[8], t[9], nullptr, bytes, executor);
  }

  // First phases that succeed.
  aclOpExecutor* forward(uint64_t* bytes) {
    aclOpExecutor* executor = nullptr;
    check(first_forward(bytes, &executor), "the forward's first phase");
    return executor;
  }

  aclOpExecutor* backward(uint64_t* bytes) {
    aclOpExecutor* executor = nullptr;
    check(first_backward(bytes, &executor), "the backward's first phase");
    return executor;
  }

  void destroy_descriptions() {
    for (aclTensor* tensor : described_) check(aclDestroyTensor(tensor), "aclDestroyTensor");
    described_.clear();
  }

 private:
  aclTensor** describe(std::initializer_list<const Tensor*> tensors) {
    for (const Tensor* tensor : tensors) described_.push_back(tensor->describe());
    return described_.data() + described_.size() - tensors.size();
  }

  std::vector<aclTensor*> described_;
};

struct DeviceMemory {
  explicit DeviceMemory(uint64_t bytes) { check(aclrtMalloc(&data, bytes, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc"); }
  ~DeviceMemory() {
    check(aclrtSynchronizeDevice(), "aclrtSynchronizeDevice");  // calls that were accepted still use it
    check(aclrtFree(data), "aclrtFree");
  }
  void* data = nullptr;
};
