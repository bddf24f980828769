// The backward on a CPU: dq, dk and dv from softmax_max and softmax_sum, the scores recomputed tile by tile.
#pragma once

#include <cstdint>

#include "attention/params.h"
#include "cpu/parallel.h"

namespace ascendspeed::cpu {

// Bytes of scratch flash_backward needs: a few tiles for each thread, a float for each query row and head, and what
// BackwardParams::sum_bytes_per_thread allows; never Sq x Skv.
int64_t backward_scratch_bytes(const BackwardParams& params, int threads);

// `scratch` is 64-byte aligned and not initialised. Every sum runs in an order that depends on the shapes alone, so
// the gradients are bitwise the same for any number of threads:
//   dk, dv of a block of keys: over the query heads of the group, then over row blocks, ascending, in one thread;
//   dq of a block of rows: over key blocks, ascending; a thread that comes too early waits for its turn. Where dq does
//   not fit in the scratch it has a sweep of its own, one thread for each block of rows, with the same sums.
// Requires a non-empty output and something to attend to.
void flash_backward(const BackwardParams& params, const Parallel& parallel, void* scratch);

}  // namespace ascendspeed::cpu
