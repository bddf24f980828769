// float32, float16 and bfloat16 as arithmetic on double says, without the bit tricks of csrc/cpu/convert.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>

#include "attention/dtype.h"

namespace ascendspeed::test {

struct FloatFormat {
  int fraction_bits, exponent_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  double epsilon() const { return std::ldexp(1.0, -fraction_bits); }
  double smallest_normal() const { return std::ldexp(1.0, 1 - bias()); }
  double smallest_denormal() const { return std::ldexp(1.0, 1 - bias() - fraction_bits); }
  double largest() const { return std::ldexp(2.0 - epsilon(), bias()); }

  double decode(uint32_t code) const {
    const uint32_t fraction = code & ((1u << fraction_bits) - 1);
    const int exponent = static_cast<int>(code >> fraction_bits) & ((1 << exponent_bits) - 1);
    const double sign = code >> (fraction_bits + exponent_bits) ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1) {
      return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
    }
    if (exponent == 0) return sign * fraction * smallest_denormal();
    return sign * std::ldexp(1.0 + fraction * epsilon(), exponent - bias());
  }

  // The nearest number of the format, ties to even; nearbyint does the rounding.
  double round(double x) const {
    if (x == 0.0 || !std::isfinite(x)) return x;
    const int exponent = std::max(std::ilogb(x), 1 - bias());
    const double spacing = std::ldexp(1.0, exponent - fraction_bits);
    const double rounded = std::nearbyint(x / spacing) * spacing;
    return std::abs(rounded) > largest() ? std::copysign(std::numeric_limits<double>::infinity(), x) : rounded;
  }
};

constexpr FloatFormat kFloat32Format{23, 8}, kFloat16Format{10, 5}, kBFloat16Format{7, 8};

inline const FloatFormat& format_of(DType dtype) {
  return dtype == DType::kFloat32 ? kFloat32Format : dtype == DType::kFloat16 ? kFloat16Format : kBFloat16Format;
}
inline int64_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

inline std::string text_of(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", x);
  return text;
}

// `x` must be a number of the format.
inline uint32_t encode(DType dtype, double x) {
  if (dtype == DType::kFloat32) return std::bit_cast<uint32_t>(static_cast<float>(x));
  const FloatFormat& format = format_of(dtype);
  const uint32_t sign = std::signbit(x) ? 0x8000u : 0u;
  const double magnitude = std::abs(x);
  if (magnitude < format.smallest_normal()) return sign | static_cast<uint32_t>(magnitude / format.smallest_denormal());
  const int exponent = std::ilogb(magnitude);
  const double fraction = (std::ldexp(magnitude, -exponent) - 1.0) / format.epsilon();
  return sign | static_cast<uint32_t>(exponent + format.bias()) << format.fraction_bits |
         static_cast<uint32_t>(fraction);
}

}  // namespace ascendspeed::test
