// The sequences of a packed batch (layout TND), from their cumulative lengths.
#pragma once

#include "attention/problem.h"
#include "attention/rules.h"
#include "attention/status.h"

namespace ascendspeed {

// Fills resolved->sequences and the sizes of resolved->geometry that depend on them. Lists hold the position where each
// sequence ends; a tail of zeros ends the batch before the tensors end, and what lies after it takes no part.
Status resolve_sequences(const Attributes& attributes, Resolved* resolved);

}  // namespace ascendspeed
