// The vector primitives a CPU attention kernel is written in, one table per instruction set.
//
// flash_forward.cpp and flash_backward.cpp are written once against this table. An instruction set is one .cpp
// that fills it and nothing else; that file alone is compiled with its -m flags, so no AVX-512 instruction can
// leak into code that runs on an older machine.
//
// Tiles are row-major float32. A leading dimension (ld*) counts floats and is a multiple of kTileAlign, and so is
// every column count called `padded`: tails are filled, never branched on. Nothing here allocates or throws.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/dtype.h"

namespace ascendspeed::cpu {

// Floats in a cache line; a whole number of vectors in every instruction set.
constexpr int kTileAlign = 16;
constexpr int padded(int64_t columns) { return static_cast<int>((columns + kTileAlign - 1) / kTileAlign * kTileAlign); }
// A leading dimension of an odd number of cache lines: rows of a strip then fall into different sets of the
// first-level cache, where 128 rows that are 512 bytes apart would share 8 of its 64 sets.
constexpr int leading(int64_t columns) { return ((padded(columns) / kTileAlign) | 1) * kTileAlign; }

// Which scores of one tile row take part: columns [begin, end) whose mask byte is 0.
struct RowVisibility {
  int begin, end;
  const uint8_t* mask;  // one byte per column of the tile, contiguous, or nullptr

  // The same, columns counted from `column`.
  RowVisibility from(int column) const {
    return {begin - column, end - column, mask == nullptr ? nullptr : mask + column};
  }
};

// Running softmax of one query row.
struct RowStats {
  float max;  // -inf until a score was seen
  float sum;
};

// How matrix products of tiles are done. Both operands are made of units: `along` numbers that follow each other along
// the depth of the product, because that is what one instruction multiplies and sums. A float32 is a unit of its own;
// of bfloat16 the instructions of x86 take 2, that of NEON 4.
//
// An operand lies row-major with its units along a row (load_rows, pack_rows: the first factor), or with the units of
// one number of `depth` in a row (load_transposed, load_stacked, pack_stacked: the second factor, or the first one
// transposed). Leading dimensions of operands count units.
struct Products {
  int along;       // 1: operands are float32 tiles; 2 or 4: bfloat16
  int unit_bytes;  // 4, or 2 * along
  int strip;       // rows of c that fill a register tile; a multiple of `along`

  // c[rows][columns] (+)= a[rows][depth] * b[depth][columns], depth in units. Unit (r, p) of a is a[r * a_row +
  // p * a_depth]; b[p * ldb + n]. columns is padded; rows is any value >= 1, depth any >= 0. c aliases neither.
  void (*matmul)(int rows, int columns, int depth, const void* a, ptrdiff_t a_row, ptrdiff_t a_depth, const void* b,
                 int ldb, float* c, int ldc, bool accumulate);

  // Memory of `dtype` to operands, [rows][columns] with strides that count elements; bfloat16 alone where along > 1.
  // What is left of the last unit becomes 0, and so does the rest of each row of units up to ld, of a transposed one up
  // to a multiple of kTileAlign.
  void (*load_rows)(DType dtype, const void* source, int64_t row_stride, int64_t column_stride, int rows, int columns,
                    void* units, int ld);  // [rows][units along columns]
  void (*load_transposed)(DType dtype, const void* source, int64_t row_stride, int64_t column_stride, int rows,
                          int columns, void* units, int ld);  // [units along columns][rows]
  void (*load_stacked)(DType dtype, const void* source, int64_t row_stride, int64_t column_stride, int rows,
                       int columns, void* units, int ld);  // [units along rows][columns]

  // A float32 tile to operands, rounded to nearest even. columns is padded. nullptr where along == 1: the tile itself
  // is the operand, row-major and transposed.
  void (*pack_rows)(int rows, int columns, const float* tile, int ld_tile, void* units, int ld);
  void (*pack_stacked)(int rows, int columns, const float* tile, int ld_tile, void* units, int ld);

  // Runs `rounds` rounds of independent multiply-adds on registers, with the instructions of matmul; returns the
  // floating-point operations done. What the machine can do at most, for benchmarks.
  int64_t (*spin)(int64_t rounds, float* sink);
};

struct Microkernel {
  const char* name;  // "generic", "avx2", "avx512": a value of ASCENDSPEED_CPU_ISA

  Products float32;          // of every dtype, converted
  const Products* bfloat16;  // of bfloat16 as it is, with float32 sums; nullptr where the CPU has no instruction for it

  // Tile rows of the forward: scores[r][0, columns) become exp(scale * score - max), 0 where not visible, and stats
  // move on. factors[r]: what was accumulated so far must be multiplied with it; 1 where nothing was. `visible` is
  // nullptr where every row sees every column.
  void (*softmax_rows)(int rows, int columns, float scale, const RowVisibility* visible, float* scores, int ld,
                       RowStats* stats, float* factors);

  // One tile row of the backward: scores become P = exp(scale * score - max) * inverse_sum and dp becomes
  // grad_scale * P * (dp - delta); both are 0 where not visible.
  void (*softmax_grad_row)(int columns, float scale, float grad_scale, RowVisibility visible, float max,
                           float inverse_sum, float delta, float* scores, float* dp);

  // row[c] = factor * row[c] + shift[c]; columns is padded.
  void (*add_row)(int columns, float factor, const float* shift, float* row);
  // row[c] = factor * |first + c|, or factor * sqrt(|first + c|); columns is padded.
  void (*distance_row)(int columns, float factor, int64_t first, bool root, float* row);

  // row[c] *= keep[c] ? factor : 0; columns is padded and so is keep.
  void (*drop_row)(int columns, float factor, const uint8_t* keep, float* row);

  // keep[c] = 1 where the generator of attention/dropout.h keeps probability first + c, else 0, for c in [0, columns).
  void (*generate_keep)(uint64_t seed, uint64_t offset, uint32_t most, uint64_t first, int columns, uint8_t* keep);

  void (*scale_row)(int columns, float factor, float* row);  // row[i] *= factor; columns is padded
  // c[i] = a . b[i * ldb], i in [0, count); columns is padded, ldb any.
  void (*dots)(int count, int columns, const float* a, const float* b, ptrdiff_t ldb, float* c);

  // A tile to memory of `dtype`, rounded to nearest even. Row r is multiplied by factors[r] first where factors is
  // given.
  void (*store_rows)(DType dtype, const float* tile, int ld, int rows, int columns, const float* factors,
                     void* destination, int64_t row_stride, int64_t column_stride);
};

// Best table this machine supports, chosen once. ASCENDSPEED_CPU_ISA=<name> forces one; an unknown or unsupported
// name throws std::invalid_argument listing the supported ones.
const Microkernel& active_microkernel();

}  // namespace ascendspeed::cpu
