// Random tests of csrc/attention and csrc/cpu without torch, for sanitizers; scripts/sanitize.sh builds and runs it.
//
//   kernels_test [--cases N] [--first N]       N attention problems, and rules and primitives in proportion
//                [--without-float16-ties]      on an emulated CPU that rounds those up (scripts/test_avx512.sh)
//   kernels_test --fault overflow|signed|race|result
//   kernels_test --isas                        the values of ASCENDSPEED_CPU_ISA that this machine supports
//
// A plain program and not a test framework's: what it needs is one loop over seeds in one process, and CI installs
// nothing but Python packages. A failure names the case, which --first N --cases 1 repeats alone.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "checks.h"
#include "cpu/microkernel.h"

namespace ascendspeed::test {
namespace {

constexpr uint64_t kRulesPerCase = 500, kPrimitivesPerCase = 10;

struct Options {
  uint64_t cases = 40, first = 0;
  std::string fault;
  bool isas = false, float16_ties = true;
};

uint64_t whole_number(const char* text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text, &end, 10);
  if (*text == '\0' || *end != '\0') throw std::invalid_argument(std::string("not a number: ") + text);
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--isas") {
      options.isas = true;
      continue;
    }
    if (name == "--without-float16-ties") {
      options.float16_ties = false;
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(name + " is not a flag, or lacks its value");
    const char* value = argv[++i];
    if (name == "--cases") {
      options.cases = whole_number(value);
    } else if (name == "--first") {
      options.first = whole_number(value);
    } else if (name == "--fault") {
      options.fault = value;
    } else {
      throw std::invalid_argument(name + " is not a flag");
    }
  }
  return options;
}

// dispatch.cpp lists them when it refuses a name.
void print_isas() {
  setenv("ASCENDSPEED_CPU_ISA", "none", 1);
  try {
    cpu::active_microkernel();
  } catch (const std::invalid_argument& refusal) {
    const char* list = std::strrchr(refusal.what(), ':');
    if (list == nullptr) throw;
    std::puts(list + 2);
    return;
  }
  throw std::logic_error("ASCENDSPEED_CPU_ISA=none was accepted");
}

// `check(number)` with the number in the message of a failure.
template <typename Check>
auto numbered(const char* kind, uint64_t number, Check&& check) {
  try {
    return check(number);
  } catch (const std::exception& failure) {
    throw std::runtime_error(std::string(kind) + " " + std::to_string(number) + ": " + failure.what());
  }
}

void run(const Options& options) {
  const auto start = std::chrono::steady_clock::now();
  const uint64_t first = options.first, cases = options.cases;
  uint64_t accepted = 0;
  for (uint64_t i = first * kRulesPerCase; i < (first + cases) * kRulesPerCase; ++i) {
    accepted += numbered("problem", i, check_rules);
  }
  check_conversions(options.float16_ties);
  for (uint64_t i = first * kPrimitivesPerCase; i < (first + cases) * kPrimitivesPerCase; ++i) {
    numbered("primitives", i, check_microkernel);
    numbered("bfloat16 products", i, check_bfloat16_products);
  }
  for (uint64_t i = first; i < first + cases; ++i) numbered("attention", i, check_attention);
  std::string threads;
  for (int count : kThreads) threads += (threads.empty() ? "" : ",") + std::to_string(count);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("isa=%s cases=%llu threads=%s rules=%llu (%llu accepted) primitives=%llu seconds=%.1f\n",
              cpu::active_microkernel().name, static_cast<unsigned long long>(cases), threads.c_str(),
              static_cast<unsigned long long>(cases * kRulesPerCase), static_cast<unsigned long long>(accepted),
              static_cast<unsigned long long>(cases * kPrimitivesPerCase), seconds.count());
}

}  // namespace
}  // namespace ascendspeed::test

int main(int argc, char** argv) {
  using namespace ascendspeed::test;
  try {
    const Options options = parse(argc, argv);
    if (options.isas) {
      print_isas();
    } else if (!options.fault.empty()) {
      make_fault(options.fault);
      std::printf("fault=%s was not found\n", options.fault.c_str());
    } else {
      run(options);
    }
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "kernels_test: %s\n", failure.what());
    return 1;
  }
}
