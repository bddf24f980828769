// The collectives as exchanges of blocks of bytes. Every rank of a communicator calls the same function.
#pragma once

#include <cstdint>
#include <vector>

#include "hostcann/hccl/exchange.h"

namespace hostcann::hccl {

// A block per rank: `count` elements from element `offset` of the buffer on.
struct Block {
  uint64_t offset;
  uint64_t count;
};
using Blocks = std::vector<Block>;

Blocks equal_blocks(uint32_t ranks, uint64_t count);  // one after another
Blocks same_block(uint32_t ranks, uint64_t count);    // all ranks' at the beginning
Blocks only_block(uint32_t ranks, uint32_t rank, Block block);

struct Reduction {
  HcclDataType type;
  HcclReduceOp op;
};

// Every rank says what it does; what two ranks say to each other must agree. sends[r] and expects[r] are element counts
// of this rank's message to and from rank r. Returns when every rank has said it.
void agree(Exchange& exchange, Header header, const std::vector<uint64_t>& sends, const std::vector<uint64_t>& expects);

// Block r of `send` goes to rank r, block r of `receive` comes from rank r.
void exchange_blocks(Exchange& exchange, const char* send, const Blocks& sends, char* receive, const Blocks& receives,
                     uint64_t element);

// Block `rank` of all ranks' buffers, combined in ascending order of ranks, to `out`. `out` may be a part of `send`.
void reduce_scatter(Exchange& exchange, const char* send, const Blocks& blocks, char* out, Reduction reduction);

// `out` may be `send`; only the root's `out` is touched by reduce_to.
void all_reduce(Exchange& exchange, const char* send, char* out, uint64_t count, Reduction reduction);
void reduce_to(Exchange& exchange, const char* send, char* out, uint64_t count, Reduction reduction, uint32_t root);

}  // namespace hostcann::hccl
