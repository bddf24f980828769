// The gradient of a pse tensor on a CPU.
#pragma once

#include "cpu/backward_tile.h"
#include "cpu/blocks.h"
#include "cpu/parallel.h"

namespace ascendspeed::cpu {

// Bytes of scratch pse_backward needs beside the workspaces.
int64_t pse_scratch_bytes(const BackwardParams& params, int threads);

// Writes params.dpse: the gradients of the scores, summed over the axes that the pse tensor broadcasts, in ascending
// order in one thread. It recomputes the scores once more; the sum over the batch would otherwise need a copy for each
// sequence. `workspaces` has room for one BackwardWorkspace for each thread.
void pse_backward(const BackwardTile& backward, const Parallel& parallel, void* workspaces, void* scratch);

}  // namespace ascendspeed::cpu
