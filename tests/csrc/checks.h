// What main.cpp runs. A check that fails throws std::runtime_error saying what, where and by how much.
#pragma once

#include <cstdint>
#include <string>

namespace ascendspeed::test {

// Both kernels on random_case(number): against attention_reference.h, and bit by bit over numbers of threads.
void check_attention(uint64_t number);
constexpr int kThreads[] = {1, 2, 3, 5};

// Every primitive of the active microkernel on one set of random sizes.
void check_microkernel(uint64_t number);
// Every 16-bit number loaded, and rounding to nearest even of numbers at and around ties.
void check_conversions();

// check_forward and check_backward on one problem that is legal but for some random values. Returns whether it was
// accepted.
bool check_rules(uint64_t number);

// Mistakes made on purpose, to show that a sanitizer or a check finds them: overflow, signed, race, result.
void make_fault(const std::string& name);

}  // namespace ascendspeed::test
