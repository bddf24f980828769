// Operands of bfloat16 products: numbers moved into units of Along as they are, or rounded from a float32 tile.
//
// Part of microkernel_impl.h; see vector.h for why everything is in an unnamed namespace.
#pragma once

#include "cpu/convert.h"
#include "cpu/products.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace ascendspeed::cpu {
namespace {

template <int Along>
void load_bf16_rows(DType, const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
                    void* units, int ld) {
  const auto* from = static_cast<const uint16_t*>(source);
  auto* to = static_cast<uint16_t*>(units);
  const int width = ld * Along;
  for (int r = 0; r < rows; ++r, from += row_stride, to += width) {
    if (column_stride == 1) {
      __builtin_memcpy(to, from, static_cast<size_t>(columns) * 2);
    } else {
      for (int c = 0; c < columns; ++c) to[c] = from[c * column_stride];
    }
    __builtin_memset(to + columns, 0, static_cast<size_t>(width - columns) * 2);
  }
}

// Units that follow each other along a row of memory are words; a transpose moves them whole.
template <int Along>
void load_bf16_transposed(DType, const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
                          void* units, int ld) {
  const auto* base = static_cast<const uint16_t*>(source);
  auto* to = static_cast<uint16_t*>(units);
  const int lines = (columns + Along - 1) / Along;
  int line = 0;
  if constexpr (Along == 2) {
    if (column_stride == 1) {
      for (; line + kWidth <= columns / 2; line += kWidth) {
        transpose_lines(rows, ld, reinterpret_cast<float*>(to) + static_cast<ptrdiff_t>(line) * ld, [&](int r) {
          return reinterpret_cast<Vec>(
              *reinterpret_cast<const UnalignedUintVec*>(base + r * row_stride + line * int64_t{2}));
        });
      }
    }
  }
  for (; line < lines; ++line) {
    uint16_t* out = to + static_cast<ptrdiff_t>(line) * ld * Along;
    const bool whole = column_stride == 1 && (line + 1) * Along <= columns;
    for (int r = 0; r < rows; ++r) {
      if (whole) {
        __builtin_memcpy(out + r * Along, base + r * row_stride + line * int64_t{Along}, Along * 2);
        continue;
      }
      for (int i = 0; i < Along; ++i) {
        const int c = line * Along + i;
        out[r * Along + i] = c < columns ? base[r * row_stride + c * column_stride] : uint16_t{0};
      }
    }
    for (int r = rows; r % kTileAlign != 0; ++r) __builtin_memset(out + r * Along, 0, Along * 2);
  }
}

// Halves to the low halves of words.
inline UintVec load_halves(const uint16_t* p) {
  return __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), UintVec);
}

// kWidth units, lane c of the i-th vector their i-th number.
inline void store_units(uint16_t* p, const UintVec (&numbers)[2]) {
  *reinterpret_cast<UnalignedUintVec*>(p) = numbers[0] | numbers[1] << 16;
}
inline void store_units(uint16_t* p, const UintVec (&numbers)[4]) {
  const UintVec first = numbers[0] | numbers[1] << 16, second = numbers[2] | numbers[3] << 16;
  UintVec low, high;
  for (int lane = 0; lane < kWidth; ++lane) {
    low[lane] = static_cast<uint32_t>(lane / 2 + lane % 2 * kWidth);
    high[lane] = low[lane] + kWidth / 2;
  }
  *reinterpret_cast<UnalignedUintVec*>(p) = __builtin_shuffle(first, second, low);
  *reinterpret_cast<UnalignedUintVec*>(p + 2 * kWidth) = __builtin_shuffle(first, second, high);
}

template <int Along>
void load_bf16_stacked(DType, const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
                       void* units, int ld) {
  const auto* base = static_cast<const uint16_t*>(source);
  auto* to = static_cast<uint16_t*>(units);
  const int whole = column_stride == 1 ? columns / kWidth * kWidth : 0;
  for (int first = 0; first < rows; first += Along, to += static_cast<ptrdiff_t>(ld) * Along) {
    const uint16_t* from = base + first * row_stride;
    int c = 0;
    if (first + Along <= rows) {
      for (; c < whole; c += kWidth) {
        UintVec numbers[Along];
        for (int i = 0; i < Along; ++i) numbers[i] = load_halves(from + i * row_stride + c);
        store_units(to + c * Along, numbers);
      }
    }
    for (; c < columns; ++c) {
      for (int i = 0; i < Along; ++i) {
        to[c * Along + i] = first + i < rows ? from[i * row_stride + c * column_stride] : uint16_t{0};
      }
    }
    __builtin_memset(to + columns * Along, 0, static_cast<size_t>(ld - columns) * Along * 2);
  }
}

// bfloat16 numbers in the low halves of words; denormal ones are 0, as the instructions round.
inline UintVec round_halves(Vec v) {
#if defined(__AVX512BF16__) && ASCENDSPEED_VECTOR_BYTES == 64
  typedef uint16_t Halves __attribute__((vector_size(32)));
  const __m256bh halves = _mm512_maskz_cvtneps_pbh(0xffff, reinterpret_cast<__m512>(v));
  return __builtin_convertvector(reinterpret_cast<Halves>(halves), UintVec);
#else
  return BFloat16::round(flushed(v));
#endif
}

template <int Along>
void pack_bf16_rows(int rows, int columns, const float* tile, int ld_tile, void* units, int ld) {
  auto* to = static_cast<uint16_t*>(units);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; c += kWidth) {
      const UintVec halves = round_halves(load(tile + static_cast<ptrdiff_t>(r) * ld_tile + c));
      *reinterpret_cast<HalfVec*>(to + static_cast<ptrdiff_t>(r) * ld * Along + c) =
          __builtin_convertvector(halves, HalfVec);
    }
  }
}

template <int Along>
void pack_bf16_stacked(int rows, int columns, const float* tile, int ld_tile, void* units, int ld) {
  auto* to = static_cast<uint16_t*>(units);
  for (int first = 0; first < rows; first += Along, to += static_cast<ptrdiff_t>(ld) * Along) {
    const float* from = tile + static_cast<ptrdiff_t>(first) * ld_tile;
    if (first + Along > rows) {
      for (int c = 0; c < columns; ++c) {
        for (int i = 0; i < Along; ++i) {
          to[c * Along + i] = first + i < rows ? BFloat16::from_float(from[i * ld_tile + c]) : uint16_t{0};
        }
      }
    } else {
      for (int c = 0; c < columns; c += kWidth) {
        UintVec numbers[Along];
        for (int i = 0; i < Along; ++i) numbers[i] = round_halves(load(from + i * ld_tile + c));
        store_units(to + c * Along, numbers);
      }
    }
  }
}

}  // namespace
}  // namespace ascendspeed::cpu
