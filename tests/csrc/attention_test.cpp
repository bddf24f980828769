// flash_forward and flash_backward against the reference, and against themselves with other numbers of threads.
#include <cstring>
#include <stdexcept>

#include "attention_call.h"
#include "attention_reference.h"
#include "checks.h"

namespace ascendspeed::test {
namespace {

struct Comparison {
  const char* name;
  const Bounded* expected;
};

// Stats repeat each number kStatLanes times.
void compare(const AttentionCase& c, const std::string& name, const Bounded& expected, const Tensor& actual) {
  const int64_t lanes = name.starts_with("softmax") ? kStatLanes : 1;
  if (actual.count() != expected.value.count() * lanes) throw std::logic_error(name + ": shapes of the test differ");
  for (int64_t i = 0; i < actual.count(); ++i) {
    const size_t at = static_cast<size_t>(i / lanes);
    const double got = actual.values[static_cast<size_t>(i)], want = expected.value.values[at];
    const double bound = expected.error.values[at];
    // Where a number is expected, NaN is outside every bound. Where NaN is, nothing was to be written.
    if (got == want || std::abs(got - want) <= bound || (std::isnan(got) && std::isnan(want))) continue;
    throw std::runtime_error(name + "[" + std::to_string(i) + "] is " + text_of(got) + ", expected " + text_of(want) +
                             " +- " + text_of(bound) + "\n  " + c.text());
  }
}

void compare_bits(const AttentionCase& c, const std::vector<Output>& expected, const std::vector<Output>& actual,
                  const std::string& threads) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const ExactMemory &a = expected[i].image->memory, &b = actual[i].image->memory;
    if (std::memcmp(a.data(), b.data(), static_cast<size_t>(a.bytes())) == 0) continue;
    throw std::runtime_error(expected[i].name + " differs between 1 thread and " + threads + "\n  " + c.text());
  }
}

}  // namespace

void compare_outputs(const AttentionCase& c, const std::vector<Output>& outputs) {
  const Expected e = expected_of(c);
  const Comparison all[] = {{"attention_out", &e.attention_out},
                            {"softmax_max", &e.softmax_max},
                            {"softmax_sum", &e.softmax_sum},
                            {"dq", &e.dq},
                            {"dk", &e.dk},
                            {"dv", &e.dv},
                            {"dq_rope", &e.dq_rope},
                            {"dk_rope", &e.dk_rope},
                            {"dpse", &e.dpse},
                            {"dsink", &e.dsink}};
  for (const Output& output : outputs) {
    for (const auto& [name, expected] : all) {
      if (output.name == name) compare(c, name, *expected, output.image->read());
    }
  }
}

void check_attention(uint64_t number) {
  const AttentionCase c = random_case(number);
  const Inputs inputs(c);
  const std::vector<Output> outputs = call_kernels(inputs, std_threads(1));
  compare_outputs(c, outputs);
  for (int threads : kThreads) {
    if (threads == 1) continue;
    compare_bits(c, outputs, call_kernels(inputs, std_threads(threads)), std::to_string(threads) + " threads");
  }
  compare_bits(c, outputs, call_kernels(inputs, serial_threads(3)), "3 threads one after the other");
  // Room for no head, which is a sweep of its own for dq, and for one or a few.
  for (int64_t sum_bytes : {int64_t{0}, int64_t{40'000}, int64_t{300'000}}) {
    compare_bits(c, outputs, call_kernels(inputs, std_threads(3), sum_bytes),
                 "3 threads with " + std::to_string(sum_bytes) + " bytes for dq");
  }
}

}  // namespace ascendspeed::test
