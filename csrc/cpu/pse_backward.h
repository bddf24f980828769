// The gradient of a pse tensor on a CPU.
#pragma once

#include "cpu/backward_tile.h"
#include "cpu/parallel.h"

namespace ascendspeed::cpu {

// Writes params.dpse: the gradients of the scores, summed over the axes that the pse tensor broadcasts, batch elements
// and then rows in ascending order in one thread. It recomputes the scores once more; the sum over the batch would
// otherwise need a copy for each element. `workspaces` has room for one BackwardWorkspace for each thread.
void pse_backward(const BackwardTile& backward, const Parallel& parallel, void* workspaces);

}  // namespace ascendspeed::cpu
