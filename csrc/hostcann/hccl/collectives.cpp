#include "hostcann/hccl/collectives.h"

#include <algorithm>
#include <cstring>

#include "hostcann/hccl/reduction.h"

namespace hostcann::hccl {
namespace {

constexpr uint64_t kScratchBytes = 256 << 10;  // of one rank's elements at a time

uint64_t elements_at_a_time(HcclDataType type) { return kScratchBytes / element_size(type); }

// `count` elements as even as they divide, one block after another.
Blocks split(uint32_t ranks, uint64_t count) {
  Blocks blocks;
  for (uint64_t r = 0; r < ranks; ++r) {
    const uint64_t begin = count * r / ranks, end = count * (r + 1) / ranks;
    blocks.push_back({begin, end - begin});
  }
  return blocks;
}

Block part_of(const Block& block, uint64_t from, uint64_t at_most) {
  if (from >= block.count) return {block.offset, 0};
  return {block.offset + from, std::min(at_most, block.count - from)};
}

// One part of reduce_scatter, whose elements of a rank fit in a scratch buffer.
void reduce_scatter_part(Exchange& exchange, const char* send, const Blocks& parts, char* out, Reduction reduction) {
  const uint64_t element = element_size(reduction.type);
  const uint32_t rank = exchange.rank(), ranks = exchange.ranks();
  const Block mine = parts[rank];
  std::vector<char> contributions(ranks * mine.count * element);
  exchange_blocks(exchange, send, parts, contributions.data(), equal_blocks(ranks, mine.count), element);
  if (mine.count == 0) return;
  for (uint32_t r = 1; r < ranks; ++r) {
    reduce(reduction.type, reduction.op, contributions.data(), contributions.data() + r * mine.count * element,
           mine.count);
  }
  std::memcpy(out, contributions.data(), mine.count * element);
}

}  // namespace

Blocks equal_blocks(uint32_t ranks, uint64_t count) {
  Blocks blocks;
  for (uint64_t r = 0; r < ranks; ++r) blocks.push_back({r * count, count});
  return blocks;
}

Blocks same_block(uint32_t ranks, uint64_t count) { return Blocks(ranks, Block{0, count}); }

Blocks only_block(uint32_t ranks, uint32_t rank, Block block) {
  Blocks blocks(ranks, Block{0, 0});
  blocks[rank] = block;
  return blocks;
}

void agree(Exchange& exchange, Header header, const std::vector<uint64_t>& sends,
           const std::vector<uint64_t>& expects) {
  std::vector<Message> messages;
  for (uint32_t peer = 0; peer < exchange.ranks(); ++peer) {
    if (peer == exchange.rank()) continue;
    header.count = sends[peer];
    messages.push_back({true, peer, true, header, nullptr, 0});
    header.count = expects[peer];
    messages.push_back({false, peer, true, header, nullptr, 0});
  }
  exchange.run(std::move(messages));
}

void exchange_blocks(Exchange& exchange, const char* send, const Blocks& sends, char* receive, const Blocks& receives,
                     uint64_t element) {
  std::vector<Message> messages;
  for (uint32_t peer = 0; peer < exchange.ranks(); ++peer) {
    const Block &to = sends[peer], &from = receives[peer];
    if (peer == exchange.rank()) {
      if (to.count > 0) std::memmove(receive + from.offset * element, send + to.offset * element, to.count * element);
      continue;
    }
    if (to.count > 0) messages.push_back(send_data(peer, send + to.offset * element, to.count * element));
    if (from.count > 0) messages.push_back(receive_data(peer, receive + from.offset * element, from.count * element));
  }
  exchange.run(std::move(messages));
}

void reduce_scatter(Exchange& exchange, const char* send, const Blocks& blocks, char* out, Reduction reduction) {
  const uint64_t step = elements_at_a_time(reduction.type), element = element_size(reduction.type);
  uint64_t longest = 0;
  for (const Block& block : blocks) longest = std::max(longest, block.count);
  for (uint64_t from = 0; from < longest; from += step) {
    Blocks parts;
    for (const Block& block : blocks) parts.push_back(part_of(block, from, step));
    reduce_scatter_part(exchange, send, parts, out + from * element, reduction);
  }
}

void all_reduce(Exchange& exchange, const char* send, char* out, uint64_t count, Reduction reduction) {
  const uint64_t element = element_size(reduction.type);
  const uint32_t rank = exchange.rank(), ranks = exchange.ranks();
  const uint64_t step = ranks * elements_at_a_time(reduction.type);
  for (uint64_t from = 0; from < count; from += step) {
    const Blocks parts = split(ranks, std::min(step, count - from));
    char* const here = out + from * element;
    reduce_scatter_part(exchange, send + from * element, parts, here + parts[rank].offset * element, reduction);
    exchange_blocks(exchange, here, Blocks(ranks, parts[rank]), here, parts, element);
  }
}

void reduce_to(Exchange& exchange, const char* send, char* out, uint64_t count, Reduction reduction, uint32_t root) {
  const uint64_t element = element_size(reduction.type);
  const uint32_t rank = exchange.rank(), ranks = exchange.ranks();
  const uint64_t step = ranks * elements_at_a_time(reduction.type);
  for (uint64_t from = 0; from < count; from += step) {
    const Blocks parts = split(ranks, std::min(step, count - from));
    std::vector<char> mine(parts[rank].count * element);
    reduce_scatter_part(exchange, send + from * element, parts, mine.data(), reduction);
    exchange_blocks(exchange, mine.data(), only_block(ranks, root, {0, parts[rank].count}),
                    rank == root ? out + from * element : nullptr, rank == root ? parts : same_block(ranks, 0),
                    element);
  }
}

}  // namespace hostcann::hccl
