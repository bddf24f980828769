// Stands in for csrc/cpu/amx_tiles.h: what its instructions do, in C++ that runs anywhere and that sanitizers see.
//
// After the pseudo-code of Intel's manual. What an instruction would raise as an exception aborts.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace ascendspeed::cpu {
namespace {

struct TileState {
  bool configured = false;
  uint8_t rows[16];
  uint16_t row_bytes[16];
  uint32_t words[8][16][16];
};
thread_local TileState tiles;

inline void must(bool holds) {
  if (!holds) std::abort();
}

inline void tile_release() { tiles.configured = false; }
inline void tile_configure(const void* shapes) {
  uint8_t bytes[64];
  std::memcpy(bytes, shapes, sizeof bytes);
  must(bytes[0] == 1);  // the palette
  for (int i = 1; i < 16; ++i) must(bytes[i] == 0);
  std::memcpy(tiles.row_bytes, bytes + 16, sizeof tiles.row_bytes);
  std::memcpy(tiles.rows, bytes + 48, sizeof tiles.rows);
  for (int tile = 0; tile < 16; ++tile) {
    must(tiles.rows[tile] <= (tile < 8 ? 16 : 0) && tiles.row_bytes[tile] <= (tile < 8 ? 64 : 0));
    must((tiles.rows[tile] == 0) == (tiles.row_bytes[tile] == 0));
  }
  tiles.configured = true;
  std::memset(tiles.words, 0, sizeof tiles.words);
}

inline int rows_of(int tile) {
  must(tiles.configured && tiles.rows[tile] > 0);
  return tiles.rows[tile];
}
inline int words_of(int tile) { return tiles.row_bytes[tile] / 4; }

template <int Tile>
void tile_zero() {
  rows_of(Tile);
  std::memset(tiles.words[Tile], 0, sizeof tiles.words[Tile]);
}
template <int Tile>
void tile_load(const void* from, ptrdiff_t stride) {
  std::memset(tiles.words[Tile], 0, sizeof tiles.words[Tile]);
  for (int r = 0; r < rows_of(Tile); ++r) {
    std::memcpy(tiles.words[Tile][r], static_cast<const char*>(from) + r * stride, 4 * words_of(Tile));
  }
}
template <int Tile>
void tile_store(void* to, ptrdiff_t stride) {
  for (int r = 0; r < rows_of(Tile); ++r) {
    std::memcpy(static_cast<char*>(to) + r * stride, tiles.words[Tile][r], 4 * words_of(Tile));
  }
}

inline float number(uint32_t bits) {
  const auto x = __builtin_bit_cast(float, bits);
  return std::fpclassify(x) == FP_SUBNORMAL ? 0.0f : x;
}
inline float normal(float x) { return number(__builtin_bit_cast(uint32_t, x)); }

// The pairs' first and second products are summed up apart.
template <int C, int A, int B>
void tile_multiply_add() {
  must(rows_of(C) == rows_of(A) && words_of(A) == rows_of(B) && words_of(C) == words_of(B));
  for (int m = 0; m < rows_of(C); ++m) {
    for (int n = 0; n < words_of(C); ++n) {
      float first = 0.0f, second = 0.0f;
      for (int k = 0; k < rows_of(B); ++k) {
        const uint32_t a = tiles.words[A][m][k], b = tiles.words[B][k][n];
        first = normal(std::fma(number(a << 16), number(b << 16), first));
        second = normal(std::fma(number(a & 0xffff0000), number(b & 0xffff0000), second));
      }
      const float sum = normal(number(tiles.words[C][m][n]) + normal(first + second));
      tiles.words[C][m][n] = __builtin_bit_cast(uint32_t, sum);
    }
  }
}

}  // namespace
}  // namespace ascendspeed::cpu
