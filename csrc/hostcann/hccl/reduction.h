// Data types: their sizes, which a reduction takes, and combining two ranks' elements.
#pragma once

#include <cstdint>

#include "hccl/hccl_types.h"

namespace hostcann::hccl {

// Bytes of an element; 0 for a type that no collective of Atlas A2 and A3 takes.
uint64_t element_size(HcclDataType type);

// As documented for Atlas A2 and A3: no unsigned type, no float64, and no product of int16 or bfloat16.
bool can_reduce(HcclDataType type, HcclReduceOp op);

// into[i] = into[i] op from[i], rounded to the data type; integers wrap around, and a NaN gives a NaN in max and min.
void reduce(HcclDataType type, HcclReduceOp op, void* into, const void* from, uint64_t count);

}  // namespace hostcann::hccl
