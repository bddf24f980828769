// What the two phases of a call promise, on a small attention problem: each case by its name, "done" at the end.
//
// A case prints the codes that it is about; test_aclnn_phases.py says which they must be.
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>

#include "problem.h"

namespace {

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
