// What the two phases of a call promise, on a small attention problem: each case by its name, "done" at the end.
//
// A case prints the codes that it is about; test_aclnn_phases.py says which they must be.
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_flash_attention_score.h"
#include "aclnnop/aclnn_flash_attention_score_grad.h"

namespace {

void check(int code, const char* call) {
  if (code == ACL_SUCCESS) return;
  const char* message = aclGetRecentErrMsg();
  std::printf("%s failed: %d %s\n", call, code, message == nullptr ? "" : message);
  std::exit(1);
}

void print(const char* what, int code) {
  const char* message = aclGetRecentErrMsg();
  std::printf("%s %d %s\n", what, code, code == 0 || message == nullptr ? "" : message);
}

constexpr int64_t kHeads = 2, kLength = 64, kSize = 16;
constexpr int64_t kElements = kHeads * kLength * kSize, kStats = kHeads * kLength * 8;
char layout[] = "BNSD";

struct Tensor {
  Tensor(std::vector<int64_t> sizes, float value, bool host = false) : sizes_(std::move(sizes)), host_(host) {
    count_ = 1;
    for (int64_t size : sizes_) count_ *= size;
    std::vector<float> values(count_, value);
    for (int64_t i = 0; i < count_; ++i) values[i] += 0.01f * static_cast<float>(i % 7);
    check(host ? aclrtMallocHost(&data_, bytes()) : aclrtMalloc(&data_, bytes(), ACL_MEM_MALLOC_HUGE_FIRST), "malloc");
    const auto kind = host ? ACL_MEMCPY_HOST_TO_HOST : ACL_MEMCPY_HOST_TO_DEVICE;
    check(aclrtMemcpy(data_, bytes(), values.data(), bytes(), kind), "aclrtMemcpy");
  }
  ~Tensor() { check(host_ ? aclrtFreeHost(data_) : aclrtFree(data_), "free"); }
  Tensor(const Tensor&) = delete;

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

const std::vector<int64_t> kShape{1, kHeads, kLength, kSize}, kStatShape{1, kHeads, kLength, 8};

struct Problem {
  explicit Problem(bool host_query = false) : query(kShape, 0.5f, host_query) {}

  Tensor query, key{kShape, 0.25f}, value{kShape, 1.0f}, dy{kShape, 1.0f};
  Tensor max{kStatShape, -1.0f}, sum{kStatShape, -1.0f}, out{kShape, -1.0f};
  Tensor dq{kShape, -1.0f}, dk{kShape, -1.0f}, dv{kShape, -1.0f};
  aclrtStream stream = nullptr;

  // First phases. The descriptions are gone once the second phase has returned, or here where there is none.
  aclOpExecutor* forward(uint64_t* bytes) {
    aclOpExecutor* executor = nullptr;
    for (const Tensor* tensor : {&query, &key, &value, &max, &sum, &out}) described_.push_back(tensor->describe());
    aclTensor** t = described_.data() + described_.size() - 6;
    check(aclnnFlashAttentionScoreGetWorkspaceSize(t[0], t[1], t[2], nullptr, nullptr, nullptr, nullptr, nullptr, 0.25,
                                                   1.0, 2147483647, 2147483647, kHeads, layout, 0, 0, t[3], t[4],
                                                   nullptr, t[5], bytes, &executor),
          "the forward's first phase");
    return executor;
  }

  aclOpExecutor* backward(uint64_t* bytes) {
    aclOpExecutor* executor = nullptr;
    for (const Tensor* tensor : {&query, &key, &value, &dy, &max, &sum, &out, &dq, &dk, &dv}) {
      described_.push_back(tensor->describe());
    }
    aclTensor** t = described_.data() + described_.size() - 10;
    check(aclnnFlashAttentionScoreGradGetWorkspaceSize(
              t[0], t[1], t[2], t[3], nullptr, nullptr, nullptr, nullptr, t[4], t[5], nullptr, t[6], nullptr, 0.25, 1.0,
              2147483647, 2147483647, kHeads, layout, 0, 0, t[7], t[8], t[9], nullptr, bytes, &executor),
          "the backward's first phase");
    return executor;
  }

  void destroy_descriptions() {
    for (aclTensor* tensor : described_) check(aclDestroyTensor(tensor), "aclDestroyTensor");
    described_.clear();
  }

 private:
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

void an_executor_runs_once(Problem& p) {
  uint64_t bytes = 0;
  aclOpExecutor* executor = p.forward(&bytes);
  const DeviceMemory workspace(bytes);
  print("first", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  print("again", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  print("null", aclnnFlashAttentionScore(workspace.data, bytes, nullptr, p.stream));
}

void a_repeatable_executor_runs_until_it_is_destroyed(Problem& p) {
  uint64_t bytes = 0;
  aclOpExecutor* executor = p.forward(&bytes);
  const DeviceMemory workspace(bytes);
  print("repeatable", aclSetAclOpExecutorRepeatable(executor));
  print("first", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  print("again", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  print("destroy", aclDestroyAclOpExecutor(executor));
  print("after", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  print("destroy again", aclDestroyAclOpExecutor(executor));
}

void an_executor_belongs_to_its_call(Problem& p) {
  uint64_t bytes = 0;
  aclOpExecutor* executor = p.forward(&bytes);
  const DeviceMemory workspace(bytes);
  print("backward", aclnnFlashAttentionScoreGrad(workspace.data, bytes, executor, p.stream));
  print("V2", aclnnFlashAttentionScoreV2(workspace.data, bytes, executor, p.stream));
  print("its own", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
}

void a_workspace_must_be_device_memory_of_that_size(Problem& p) {
  uint64_t bytes = 0;
  aclOpExecutor* executor = p.forward(&bytes);
  std::printf("asks %s\n", bytes > 0 ? "yes" : "no");
  print("null", aclnnFlashAttentionScore(nullptr, bytes, executor, p.stream));
  executor = p.forward(&bytes);
  const DeviceMemory workspace(bytes);
  print("small", aclnnFlashAttentionScore(workspace.data, bytes - 1, executor, p.stream));
  executor = p.forward(&bytes);
  std::vector<char> host(bytes);
  print("host", aclnnFlashAttentionScore(host.data(), bytes, executor, p.stream));
  executor = p.forward(&bytes);
  const DeviceMemory less(bytes - 64);
  print("short", aclnnFlashAttentionScore(less.data, bytes, executor, p.stream));
}

void tensors_must_be_device_memory(Problem&) {
  Problem p(true);
  uint64_t bytes = 0;
  aclOpExecutor* executor = p.forward(&bytes);
  const DeviceMemory workspace(bytes);
  print("host query", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  p.destroy_descriptions();
}

void a_stream_must_be_alive(Problem& p) {
  uint64_t bytes = 0;
  aclOpExecutor* executor = p.forward(&bytes);
  const DeviceMemory workspace(bytes);
  check(aclrtDestroyStream(p.stream), "aclrtDestroyStream");
  print("destroyed", aclnnFlashAttentionScore(workspace.data, bytes, executor, p.stream));
  check(aclrtCreateStream(&p.stream), "aclrtCreateStream");
}

// The backward reads what the forward is still to write, on a stream that first waits for an event.
void calls_run_in_the_order_of_their_stream(Problem& p) {
  uint64_t forward_bytes = 0, backward_bytes = 0;
  aclrtStream other;
  aclrtEvent go;
  check(aclrtCreateStream(&other), "aclrtCreateStream");
  check(aclrtCreateEvent(&go), "aclrtCreateEvent");
  check(aclrtStreamWaitEvent(p.stream, go), "aclrtStreamWaitEvent");
  aclOpExecutor* forward = p.forward(&forward_bytes);
  aclOpExecutor* backward = p.backward(&backward_bytes);
  const DeviceMemory first(forward_bytes), second(backward_bytes);
  check(aclnnFlashAttentionScore(first.data, forward_bytes, forward, p.stream), "the forward");
  check(aclnnFlashAttentionScoreGrad(second.data, backward_bytes, backward, p.stream), "the backward");
  p.destroy_descriptions();
  aclrtStreamStatus status;
  check(aclrtStreamQuery(p.stream, &status), "aclrtStreamQuery");
  std::printf("before %s, out %s\n", status == ACL_STREAM_STATUS_NOT_READY ? "waiting" : "ready",
              p.out.values()[0] == -1.0f ? "untouched" : "written");
  check(aclrtRecordEvent(go, other), "aclrtRecordEvent");
  check(aclrtSynchronizeStream(p.stream), "aclrtSynchronizeStream");
  // With rows that sum to one and dy that is nearly constant along D, dv sums to what dy does.
  double dv = 0, dy = 0;
  for (float value : p.dv.values()) dv += value;
  for (float value : p.dy.values()) dy += value;
  std::printf("after %s\n", std::abs(dv - dy) < 1e-3 * dy ? "dv sums to dy" : "dv is wrong");
  check(aclrtDestroyEvent(go), "aclrtDestroyEvent");
  check(aclrtDestroyStream(other), "aclrtDestroyStream");
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

void ten_thousand_calls_leave_nothing(Problem& p) {
  uint64_t bytes = 0;
  check(aclDestroyAclOpExecutor(p.forward(&bytes)), "aclDestroyAclOpExecutor");
  const DeviceMemory workspace(bytes);
  size_t free_before = 0, free_after = 0, total = 0;
  int64_t before = 0;
  check(aclrtGetMemInfo(ACL_HBM_MEM, &free_before, &total), "aclrtGetMemInfo");
  for (int call = 0; call < 10000; ++call) {
    if (call == 1000) before = resident_bytes();
    check(aclnnFlashAttentionScore(workspace.data, bytes, p.forward(&bytes), p.stream), "the forward");
    p.destroy_descriptions();
    if (call % 100 == 99) check(aclrtSynchronizeStream(p.stream), "aclrtSynchronizeStream");
  }
  check(aclrtGetMemInfo(ACL_HBM_MEM, &free_after, &total), "aclrtGetMemInfo");
  std::printf("device %zd\nhost %ld\n", static_cast<ssize_t>(free_before) - static_cast<ssize_t>(free_after),
              resident_bytes() - before);
}

struct Case {
  const char* name;
  void (*run)(Problem&);
};
constexpr Case kCases[] = {
    {"an_executor_runs_once", an_executor_runs_once},
    {"a_repeatable_executor_runs_until_it_is_destroyed", a_repeatable_executor_runs_until_it_is_destroyed},
    {"an_executor_belongs_to_its_call", an_executor_belongs_to_its_call},
    {"a_workspace_must_be_device_memory_of_that_size", a_workspace_must_be_device_memory_of_that_size},
    {"tensors_must_be_device_memory", tensors_must_be_device_memory},
    {"a_stream_must_be_alive", a_stream_must_be_alive},
    {"calls_run_in_the_order_of_their_stream", calls_run_in_the_order_of_their_stream},
    {"ten_thousand_calls_leave_nothing", ten_thousand_calls_leave_nothing},
};

}  // namespace

int main(int, char** arguments) {
  check(aclInit(nullptr), "aclInit");
  check(aclrtSetDevice(0), "aclrtSetDevice");
  for (const Case& each : kCases) {
    if (std::strcmp(each.name, arguments[1]) != 0) continue;
    Problem p;
    check(aclrtCreateStream(&p.stream), "aclrtCreateStream");
    each.run(p);
    check(aclrtSynchronizeStream(p.stream), "aclrtSynchronizeStream");
    p.destroy_descriptions();
    check(aclrtDestroyStream(p.stream), "aclrtDestroyStream");
    std::puts("done");
  }
  return 0;
}
