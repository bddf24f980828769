// A tensor as numbers, and as memory: any strides, exactly as many bytes as they span, everything else poisoned.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "attention/params.h"
#include "exact_memory.h"
#include "float_formats.h"
#include "random.h"

namespace ascendspeed::test {

// Values of [batch, head, position, dim].
struct Tensor {
  std::array<int64_t, 4> sizes{};
  std::vector<double> values;

  Tensor() = default;
  explicit Tensor(std::array<int64_t, 4> shape, double value = 0.0)
      : sizes(shape), values(static_cast<size_t>(shape[0] * shape[1] * shape[2] * shape[3]), value) {}

  int64_t count() const { return static_cast<int64_t>(values.size()); }
  double* at(int64_t batch, int64_t head, int64_t position) {
    return values.data() + ((batch * sizes[1] + head) * sizes[2] + position) * sizes[3];
  }
  const double* at(int64_t batch, int64_t head, int64_t position) const {
    return const_cast<Tensor*>(this)->at(batch, head, position);
  }
};

inline Tensor random_tensor(Random& random, std::array<int64_t, 4> sizes, DType dtype, double magnitude) {
  Tensor tensor(sizes);
  for (double& value : tensor.values) value = format_of(dtype).round(magnitude * random.normal());
  return tensor;
}

// Strides for four axes, in a random order of the axes unless `contiguous`, with gaps now and then; broadcast axes
// have size 1.
inline std::array<int64_t, 4> random_strides(Random& random, const std::array<int64_t, 4>& sizes, bool contiguous) {
  // As BNSD, BSND and BSH (batch, position, head), SBH (position, batch, head); outermost first.
  std::array<int, 4> order =
      contiguous ? std::array{0, 1, 2, 3} : random.pick({std::array{0, 1, 2, 3}, {0, 2, 1, 3}, {2, 0, 1, 3}});
  std::array<int64_t, 4> strides{};
  int64_t step = contiguous || !random.one_in(6) ? 1 : 2;
  for (int i = 3; i >= 0; --i) {
    strides[order[i]] = step;
    step *= sizes[order[i]];
    if (!contiguous && random.one_in(4)) step += random.whole(1, 5);
  }
  return strides;
}

// A tensor's image in memory.
struct Image {
  std::array<int64_t, 4> sizes, strides;
  DType dtype;
  ExactMemory memory;

  // `missing` elements less than the strides span, for a fault.
  Image(DType type, const std::array<int64_t, 4>& shape, const std::array<int64_t, 4>& steps, int64_t missing = 0)
      : sizes(shape), strides(steps), dtype(type), memory((extent() - missing) * bytes_of(type)) {}

  void write(const Tensor& tensor) {
    for_each([&](int64_t index, int64_t element) {
      const double value = tensor.values[static_cast<size_t>(index)];
      if (std::isnan(value)) return;  // poison is NaN
      const uint32_t code = encode(dtype, value);
      std::memcpy(memory.data() + element * bytes_of(dtype), &code, static_cast<size_t>(bytes_of(dtype)));
    });
  }
  Tensor read() const {
    Tensor tensor(sizes);
    for_each([&](int64_t index, int64_t element) {
      uint32_t code = 0;
      std::memcpy(&code, memory.data() + element * bytes_of(dtype), static_cast<size_t>(bytes_of(dtype)));
      tensor.values[static_cast<size_t>(index)] = format_of(dtype).decode(code);
    });
    return tensor;
  }
  // Whether what lies around and between the tensor's elements is as it was.
  bool gaps_intact() const {
    if (!memory.margins_intact()) return false;
    std::vector<bool> ours(static_cast<size_t>(extent()), false);
    for_each([&](int64_t, int64_t element) { ours[static_cast<size_t>(element)] = true; });
    for (int64_t i = 0; i < memory.bytes(); ++i) {
      if (!ours[static_cast<size_t>(i / bytes_of(dtype))] && memory.data()[i] != ExactMemory::kPoison) return false;
    }
    return true;
  }

  Strides view_strides() const { return {strides[0], strides[1], strides[2], strides[3]}; }
  ConstView view() const { return {memory.data(), view_strides()}; }
  View mutable_view() const { return {memory.data(), view_strides()}; }

 private:
  int64_t extent() const {
    int64_t last = 0;
    for (int axis = 0; axis < 4; ++axis) {
      if (sizes[axis] == 0) return 0;
      last += (sizes[axis] - 1) * strides[axis];
    }
    return last + 1;
  }
  template <typename Body>
  void for_each(Body&& body) const {
    int64_t index = 0;
    for (int64_t b = 0; b < sizes[0]; ++b) {
      for (int64_t n = 0; n < sizes[1]; ++n) {
        for (int64_t i = 0; i < sizes[2]; ++i) {
          for (int64_t d = 0; d < sizes[3]; ++d, ++index) {
            body(index, b * strides[0] + n * strides[1] + i * strides[2] + d * strides[3]);
          }
        }
      }
    }
  }
};

}  // namespace ascendspeed::test
