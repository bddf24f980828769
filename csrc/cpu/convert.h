// float16 and bfloat16 in memory to float32 tiles and back, rounding to nearest even.
//
// Part of microkernel_impl.h; see vector.h for why everything is in an unnamed namespace.
#pragma once

#include "attention/dtype.h"
#include "cpu/vector.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace ascendspeed::cpu {
namespace {

struct Float32 {
  using Storage = float;
  static float to_float(float x) { return x; }
  static float from_float(float x) { return x; }
  static Vec load_vector(const float* p) { return load(p); }
  static void store_vector(float* p, Vec v) { store(p, v); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static float to_float(uint16_t x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x) << 16); }
  static uint16_t from_float(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40);  // keep it a NaN after truncation
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  static Vec load_vector(const uint16_t* p) {
    const UintVec wide = __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), UintVec) << 16;
    return reinterpret_cast<Vec>(wide);
  }
  // In the low halves of words.
  static UintVec round(Vec v) {
    const UintVec bits = reinterpret_cast<UintVec>(v);
    const UintVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return v != v ? (bits >> 16) | 0x40 : rounded;
  }
  static void store_vector(uint16_t* p, Vec v) {
    *reinterpret_cast<HalfVec*>(p) = __builtin_convertvector(round(v), HalfVec);
  }
};

struct Float16 {
  using Storage = uint16_t;
  // A float16 shifted to float32's bit positions is 2^-112 of its value, denormals included.
  static float to_float(uint16_t x) {
    const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16, magnitude = static_cast<uint32_t>(x & 0x7fff) << 13;
    const uint32_t bits = magnitude >= 0x0f800000
                              ? magnitude | 0x7f800000  // infinity and NaN
                              : __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) * 0x1p112f);
    return __builtin_bit_cast(float, sign | bits);
  }
  static uint16_t from_float(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);   // NaN
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and above round to infinity
    if (magnitude < 0x38800000) {
      // Below 2^-14: adding 0.5 makes the float adder round at float16's denormal spacing of 2^-24.
      const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;
      return static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3f000000));
    }
    const uint32_t rebased = magnitude - 0x38000000;  // exponent bias 127 -> 15
    return static_cast<uint16_t>(sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13));
  }
#if defined(__F16C__) && ASCENDSPEED_VECTOR_BYTES == 32
  static Vec load_vector(const uint16_t* p) {
    return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static void store_vector(uint16_t* p, Vec v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__AVX512F__) && ASCENDSPEED_VECTOR_BYTES == 64
  static Vec load_vector(const uint16_t* p) {
    // The masked forms: GCC 12 warns of an uninitialised value inside its own unmasked ones.
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return reinterpret_cast<Vec>(_mm512_maskz_cvtph_ps(0xffff, halves));
  }
  static void store_vector(uint16_t* p, Vec v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__aarch64__) && ASCENDSPEED_VECTOR_BYTES == 16
  static Vec load_vector(const uint16_t* p) {
    return reinterpret_cast<Vec>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))));
  }
  static void store_vector(uint16_t* p, Vec v) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(reinterpret_cast<float32x4_t>(v))));
  }
#else
  static Vec load_vector(const uint16_t* p) {
    Vec v;
    for (int i = 0; i < kWidth; ++i) v[i] = to_float(p[i]);
    return v;
  }
  static void store_vector(uint16_t* p, Vec v) {
    for (int i = 0; i < kWidth; ++i) p[i] = from_float(v[i]);
  }
#endif
};

template <typename T>
void load_rows_as(const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns, float* tile,
                  int ld) {
  const auto* base = static_cast<const typename T::Storage*>(source);
  const int whole = column_stride == 1 ? columns / kWidth * kWidth : 0;
  for (int r = 0; r < rows; ++r) {
    const auto* from = base + r * row_stride;
    float* to = tile + static_cast<ptrdiff_t>(r) * ld;
    int c = 0;
    for (; c < whole; c += kWidth) store(to + c, T::load_vector(from + c));
    for (; c < columns; ++c) to[c] = T::to_float(from[c * column_stride]);
    for (; c < ld; ++c) to[c] = 0.0f;
  }
}

template <typename T>
void load_transposed_as(const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
                        float* tile, int ld) {
  const auto* base = static_cast<const typename T::Storage*>(source);
  int first = 0;
  if (column_stride == 1) {
    for (; first + kWidth <= columns; first += kWidth) {
      transpose_lines(rows, ld, tile + static_cast<ptrdiff_t>(first) * ld,
                      [&](int r) { return T::load_vector(base + r * row_stride + first); });
    }
  }
  for (; first < columns; ++first) {
    float* to = tile + static_cast<ptrdiff_t>(first) * ld;
    for (int r = 0; r < rows; ++r) to[r] = T::to_float(base[r * row_stride + first * column_stride]);
    for (int r = rows; r % kTileAlign != 0; ++r) to[r] = 0.0f;
  }
}

template <typename T>
void store_rows_as(const float* tile, int ld, int rows, int columns, const float* factors, void* destination,
                   int64_t row_stride, int64_t column_stride) {
  auto* base = static_cast<typename T::Storage*>(destination);
  const int whole = column_stride == 1 ? columns / kWidth * kWidth : 0;
  for (int r = 0; r < rows; ++r) {
    const float factor = factors == nullptr ? 1.0f : factors[r];
    const float* from = tile + static_cast<ptrdiff_t>(r) * ld;
    auto* to = base + r * row_stride;
    int c = 0;
    for (; c < whole; c += kWidth) T::store_vector(to + c, load(from + c) * factor);
    for (; c < columns; ++c) to[c * column_stride] = T::from_float(from[c] * factor);
  }
}

void load_rows(DType dtype, const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
               void* tile, int ld) {
  const auto as = dtype == DType::kFloat32    ? load_rows_as<Float32>
                  : dtype == DType::kBFloat16 ? load_rows_as<BFloat16>
                                              : load_rows_as<Float16>;
  as(source, row_stride, column_stride, rows, columns, static_cast<float*>(tile), ld);
}

void load_transposed(DType dtype, const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
                     void* tile, int ld) {
  const auto as = dtype == DType::kFloat32    ? load_transposed_as<Float32>
                  : dtype == DType::kBFloat16 ? load_transposed_as<BFloat16>
                                              : load_transposed_as<Float16>;
  as(source, row_stride, column_stride, rows, columns, static_cast<float*>(tile), ld);
}

void store_rows(DType dtype, const float* tile, int ld, int rows, int columns, const float* factors, void* destination,
                int64_t row_stride, int64_t column_stride) {
  const auto as = dtype == DType::kFloat32    ? store_rows_as<Float32>
                  : dtype == DType::kBFloat16 ? store_rows_as<BFloat16>
                                              : store_rows_as<Float16>;
  as(tile, ld, rows, columns, factors, destination, row_stride, column_stride);
}

}  // namespace
}  // namespace ascendspeed::cpu
