// The instructions of AMX on its tiles: eight registers, tmm0 to tmm7, of up to 16 rows of 64 bytes.
//
// In assembler, because GCC's intrinsics paste the text of their arguments into names of registers, which takes no
// template parameter, and do not tell the compiler that they read and write memory. See vector.h for why everything is
// in an unnamed namespace; tests/csrc/emulated has the same in C++.
#pragma once

#include <cstddef>

namespace ascendspeed::cpu {
namespace {

// Rows and bytes in a row of every tile, in the 64 bytes that ldtilecfg reads. What the tiles held is lost. Every
// thread has shapes of its own; once released, the system need not save its tiles.
inline void tile_configure(const void* shapes) { asm volatile("ldtilecfg (%0)" : : "r"(shapes) : "memory"); }
inline void tile_release() { asm volatile("tilerelease"); }

template <int Tile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}

// Row i lies `stride` bytes after row i - 1.
template <int Tile>
inline void tile_load(const void* from, ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
inline void tile_store(void* to, ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(Tile) : "memory");
}

// C[m][n] += the sum over k of A[m][k] . B[k][n]: of float32 C, and pairs of bfloat16 A and B. Denormal numbers, sums
// among them, are 0.
template <int C, int A, int B>
inline void tile_multiply_add() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

}  // namespace
}  // namespace ascendspeed::cpu
