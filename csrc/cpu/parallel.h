// How a kernel gets its threads: the caller lends them, so that torch's pool, a test or a plain C++ program can.
#pragma once

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

}  // namespace ascendspeed::cpu
