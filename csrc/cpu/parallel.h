// How a kernel gets its threads: the caller lends them, so that torch's pool, a test or a plain C++ program can.
#pragma once

#include <atomic>
#include <cstdint>

namespace ascendspeed::cpu {

// body(state, thread) is called once for each thread in [0, threads), concurrently or one after the other.
// Kernels share work through atomic counters, so any number of these calls may be the one that does it all.
struct Parallel {
  int threads = 1;
  void (*run)(int threads, void (*body)(void* state, int thread), void* state) = nullptr;
};

template <typename Body>
void run_parallel(const Parallel& parallel, Body&& body) {
  parallel.run(parallel.threads, [](void* state, int thread) { (*static_cast<Body*>(state))(thread); }, &body);
}

// Shares tasks [0, tasks) out from one queue, in ascending order: body(workspace, task), where each thread has made
// its own workspace(thread) first.
template <typename MakeWorkspace, typename Body>
void for_each_task(const Parallel& parallel, int64_t tasks, MakeWorkspace&& make_workspace, Body&& body) {
  std::atomic<int64_t> next{0};
  run_parallel(parallel, [&](int thread) {
    const auto workspace = make_workspace(thread);
    for (int64_t task = next++; task < tasks; task = next++) body(workspace, task);
  });
}

}  // namespace ascendspeed::cpu
