// What main.cpp runs. A check that fails throws std::runtime_error saying what, where and by how much.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "float_formats.h"

namespace ascendspeed::test {

inline void expect(const char* what, int64_t at, double got, double want, double bound) {
  if (got == want || std::abs(got - want) <= bound || (std::isnan(got) && std::isnan(want))) return;
  throw std::runtime_error(std::string(what) + "[" + std::to_string(at) + "] is " + text_of(got) + ", expected " +
                           text_of(want) + " +- " + text_of(bound));
}

// Both kernels on random_case(number): against attention_reference.h, and bit by bit over numbers of threads.
void check_attention(uint64_t number);
constexpr int kThreads[] = {1, 2, 3, 5};

// Every primitive of the active microkernel on one set of random sizes.
void check_microkernel(uint64_t number);
// Its operands and products of bfloat16, where it has them, on one set of random sizes.
void check_bfloat16_products(uint64_t number);
// Every 16-bit number loaded, and rounding to nearest even of numbers at and around ties.
void check_conversions(bool float16_ties);

// check_forward and check_backward on one problem that is legal but for some random values. Returns whether it was
// accepted.
bool check_rules(uint64_t number);

// Mistakes made on purpose, to show that a sanitizer or a check finds them: overflow, signed, race, result.
void make_fault(const std::string& name);

}  // namespace ascendspeed::test
