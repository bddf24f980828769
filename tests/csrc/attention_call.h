// A call of the kernels: an AttentionCase in memory as csrc/cpu wants it, and what the kernels made of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attention_case.h"
#include "cpu/parallel.h"
#include "exact_memory.h"

namespace ascendspeed::test {

// Ways to lend threads. `std::thread`s at once; or all in the calling thread, last first.
cpu::Parallel std_threads(int threads);
cpu::Parallel serial_threads(int threads);

struct Output {
  std::string name;
  std::unique_ptr<Image> image;
};

// Where the numbers of an input lie: as the case has them, in memory of exactly that size.
struct Inputs {
  explicit Inputs(const AttentionCase& problem);

  const AttentionCase& c;
  Image query, key, value, query_rope, key_rope, dy;
  std::array<int64_t, 4> mask_strides{};
  ExactMemory mask, sink, prefix, drop_bits, sequences;
  std::unique_ptr<Image> pse;

 private:
  Inputs(const AttentionCase& problem, Random random);
};

// Both kernels, one after the other: attention_out, softmax_max, softmax_sum, dq, dk, dv, dq_rope, dk_rope, dpse and
// dsink, those that the case has. Throws std::runtime_error when memory that is not theirs was written.
// sum_bytes: BackwardParams::sum_bytes_per_thread. attention_out has memory for `missing` elements less than it holds,
// for a fault.
constexpr int64_t kEnoughSumBytes = int64_t{1} << 30;
std::vector<Output> call_kernels(const Inputs& inputs, const cpu::Parallel& parallel,
                                 int64_t sum_bytes = kEnoughSumBytes, int64_t missing = 0);

// Throws std::runtime_error for the first number outside its bound.
void compare_outputs(const AttentionCase& c, const std::vector<Output>& outputs);

}  // namespace ascendspeed::test
