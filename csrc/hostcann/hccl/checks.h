// The rules for the arguments of a collective, each written once.
#pragma once

#include "acl/acl_rt.h"
#include "hostcann/hccl/collectives.h"
#include "hostcann/hccl/registry.h"

namespace hostcann::hccl {

// Elements that the buffer must hold at least; refuses counts above HCCL's limit.
uint64_t extent(const Blocks& blocks);

// Blocks of the uint64 arrays that a V collective is given.
Blocks read_blocks(const char* counts_name, const void* counts, const char* displacements_name,
                   const void* displacements, uint32_t ranks);
std::vector<uint64_t> counts_of(const Blocks& blocks);

// The communicator, for a call on this stream.
std::shared_ptr<Communicator> find(HcclComm comm, aclrtStream stream);

void check_type(const char* name, HcclDataType type);
void check_reduction(HcclDataType type, HcclReduceOp op);
void check_same_type(HcclDataType send_type, HcclDataType receive_type);
void check_rank(const char* name, uint32_t rank, const Communicator& communicator);

// Device memory of `count` elements of a checked type; null only where count is 0.
void check_buffer(const char* name, const void* buffer, uint64_t count, HcclDataType type);

}  // namespace hostcann::hccl
