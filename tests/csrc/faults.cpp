// Mistakes made on purpose, in calls of the real kernels.
#include <limits>
#include <stdexcept>
#include <thread>

#include "attention_call.h"
#include "checks.h"
#include "cpu/tiles.h"

namespace ascendspeed::test {
namespace {

// A case with work for several threads.
AttentionCase busy_case() {
  for (uint64_t number = 0;; number += 2) {
    AttentionCase c = random_case(number);
    if (c.heads > 2 && c.longest_q() > 72 && c.longest_kv() > 48) return c;
  }
}

// attention_out ends one element early: the kernel writes behind it.
void overflow() {
  const AttentionCase c = busy_case();
  call_kernels(Inputs(c), std_threads(1), kEnoughSumBytes, 1);
}

// A sum beyond 2^63 in a header of csrc/cpu.
void signed_overflow() {
  const volatile int64_t most = std::numeric_limits<int64_t>::max();
  const volatile int64_t blocks = cpu::ceil_div(most, cpu::kKeyBlock);
  static_cast<void>(blocks);
}

// Two threads with one number: they share a workspace.
void race() {
  const AttentionCase c = busy_case();
  const cpu::Parallel twins = {2, [](int, void (*body)(void*, int), void* state) {
                                 std::thread other(body, state, 0);
                                 body(state, 0);
                                 other.join();
                               }};
  call_kernels(Inputs(c), twins);
}

// One bit of one result is wrong.
void result() {
  const AttentionCase c = busy_case();
  const std::vector<Output> outputs = call_kernels(Inputs(c), std_threads(1));
  outputs[3].image->memory.data()[bytes_of(c.dtype) - 1] ^= 0x20;  // a high bit of an exponent, of dq
  compare_outputs(c, outputs);
}

struct Fault {
  const char* name;
  void (*make)();
};
constexpr Fault kFaults[] = {{"overflow", overflow}, {"signed", signed_overflow}, {"race", race}, {"result", result}};

}  // namespace

void make_fault(const std::string& name) {
  std::string names;
  for (const Fault& fault : kFaults) {
    if (name == fault.name) return fault.make();
    names += std::string(" ") + fault.name;
  }
  throw std::invalid_argument("--fault " + name + " is not one of:" + names);
}

}  // namespace ascendspeed::test
