// Seeded random numbers that are the same on every platform, which std's distributions do not promise.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

namespace ascendspeed::test {

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed * 0x9E3779B97F4A7C15u + 1) {}

  uint64_t bits() { return engine_(); }
  // In [least, most].
  int64_t whole(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(engine_() % (static_cast<uint64_t>(most - least) + 1));
  }
  bool one_in(int64_t n) { return whole(1, n) == 1; }
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }  // in [0, 1)
  // About normal, of variance 1 and at most 3.5 in magnitude: the sum of twelve uniform numbers of variance 1/12.
  double normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += unit();
    return sum < -3.5 ? -3.5 : sum > 3.5 ? 3.5 : sum;
  }
  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[whole(0, static_cast<int64_t>(choices.size()) - 1)];
  }
  template <typename T>
  const T& pick(const std::vector<T>& choices) {
    return choices[static_cast<size_t>(whole(0, static_cast<int64_t>(choices.size()) - 1))];
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace ascendspeed::test
