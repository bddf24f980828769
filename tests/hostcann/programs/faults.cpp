// Calls that a fault may strike, in the order of the arguments: "device=1 forward sync out". Each prints its name, its
// code, and what aclGetRecentErrMsg says where that is not 0. test_faults.py says what must come out.
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "problem.h"

namespace {

std::map<int32_t, std::unique_ptr<Problem>> problems;  // by device

Problem& problem() {
  int32_t device = 0;
  check(aclrtGetDevice(&device), "aclrtGetDevice");
  auto& found = problems[device];
  if (found == nullptr) {
    found = std::make_unique<Problem>();
    check(aclrtCreateStream(&found->stream), "aclrtCreateStream");
  }
  return *found;
}

using FirstPhase = int (Problem::*)(uint64_t*, aclOpExecutor**);
using SecondPhase = aclnnStatus (*)(void*, uint64_t, aclOpExecutor*, aclrtStream);

// Both phases, and the end of the stream's work; the synchronisation's code is left to "sync".
void call(const std::string& name, FirstPhase first, SecondPhase second) {
  Problem& p = problem();
  uint64_t bytes = 77;
  auto* executor = reinterpret_cast<aclOpExecutor*>(&bytes);
  const int code = (p.*first)(&bytes, &executor);
  print((name + " first").c_str(), code);
  if (code == ACL_SUCCESS) {
    void* workspace = nullptr;
    check(aclrtMalloc(&workspace, bytes, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    print((name + " second").c_str(), second(workspace, bytes, executor, p.stream));
    aclrtSynchronizeStream(p.stream);
    check(aclrtFree(workspace), "aclrtFree");
  } else if (bytes != 0 || executor != nullptr) {
    std::puts("a refused first phase has left its results");
  }
  p.destroy_descriptions();
}

void allocate(const char* name, aclError (*allocator)(void**, size_t, aclrtMemMallocPolicy)) {
  void* memory = &memory;
  print(name, allocator(&memory, 64, ACL_MEM_MALLOC_HUGE_FIRST));  // kept: the process ends
}

const std::map<std::string, std::function<void()>> kSteps = {
    {"device=0", [] { check(aclrtSetDevice(0), "aclrtSetDevice"); }},
    {"device=1", [] { check(aclrtSetDevice(1), "aclrtSetDevice"); }},
    {"forward", [] { call("forward", &Problem::first_forward, aclnnFlashAttentionScore); }},
    {"backward", [] { call("backward", &Problem::first_backward, aclnnFlashAttentionScoreGrad); }},
    {"illegal",
     [] {
       uint64_t bytes = 0;
       aclDestroyAclOpExecutor(problem().forward(&bytes));
       print("illegal", aclnnFlashAttentionScore(nullptr, bytes, nullptr, problem().stream));
     }},
    {"sync", [] { print("sync", aclrtSynchronizeStream(problem().stream)); }},
    {"stream", [] { check(aclrtCreateStream(&problem().stream), "aclrtCreateStream"); }},
    {"out",
     [] {  // and back to what it was made with
       Tensor& out = problem().out;
       std::puts(out.values()[0] == -1.0f ? "untouched" : "written");
       out.fill(-1.0f);
     }},
    {"malloc", [] { allocate("malloc", aclrtMalloc); }},
    {"align32", [] { allocate("align32", aclrtMallocAlign32); }},
    {"too much",
     [] {
       void* memory = nullptr;
       print("too much", aclrtMalloc(&memory, size_t{1} << 40, ACL_MEM_MALLOC_HUGE_FIRST));
     }},
    {"host",
     [] {
       void* memory = nullptr;
       print("host", aclrtMallocHost(&memory, 64));
     }},
};

}  // namespace

int main(int count, char** steps) {
  const int code = aclInit(nullptr);
  print("init", code);
  if (code != ACL_SUCCESS) return 0;
  check(aclrtSetDevice(0), "aclrtSetDevice");
  for (int i = 1; i < count; ++i) kSteps.at(steps[i])();
  std::fflush(stdout);
  std::_Exit(0);  // the problems need a device to end
}
