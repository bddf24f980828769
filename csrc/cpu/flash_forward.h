// The forward on a CPU: attention_out, softmax_max and softmax_sum without ever holding Sq x Skv scores.
#pragma once

#include <cstdint>

#include "attention/params.h"
#include "cpu/parallel.h"

namespace ascendspeed::cpu {

// Bytes of scratch flash_forward needs; they depend on head sizes and threads, not on sequence lengths.
int64_t forward_scratch_bytes(const ForwardParams& params, int threads);

// `scratch` is 64-byte aligned and not initialised. Scores, softmax and sums are float32 whatever the dtype. Each
// output row is computed by one thread in an order that does not depend on the number of threads.
// A row that sees no key gets attention_out 0, softmax_max -FLT_MAX, softmax_sum +FLT_MAX.
// Requires a non-empty output and something to attend to (Geometry::nothing_to_attend() is false).
void flash_forward(const ForwardParams& params, const Parallel& parallel, void* scratch);

}  // namespace ascendspeed::cpu
