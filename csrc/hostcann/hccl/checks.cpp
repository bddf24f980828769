#include "hostcann/hccl/checks.h"

#include <algorithm>

#include "hostcann/hccl/reduction.h"

namespace hostcann::hccl {
namespace {

constexpr uint64_t kMaxCount = 0x7FFFFFFFF;  // elements; the limit of HCCL

void check_count(const std::string& name, uint64_t count) {
  if (count <= kMaxCount) return;
  throw Error(HCCL_E_PARA, name + "=" + std::to_string(count) + " is above " + std::to_string(kMaxCount) + " elements");
}

}  // namespace

uint64_t extent(const Blocks& blocks) {
  uint64_t most = 0;
  for (const Block& block : blocks) {
    check_count("count", block.count);
    if (block.count > 0) most = std::max(most, block.offset + block.count);
  }
  return most;
}

Blocks read_blocks(const char* counts_name, const void* counts, const char* displacements_name,
                   const void* displacements, uint32_t ranks) {
  require(counts_name, counts);
  require(displacements_name, displacements);
  const auto* const count = static_cast<const uint64_t*>(counts);
  const auto* const displacement = static_cast<const uint64_t*>(displacements);
  Blocks blocks;
  for (uint32_t rank = 0; rank < ranks; ++rank) {
    check_count(std::string(counts_name) + '[' + std::to_string(rank) + ']', count[rank]);
    check_count(std::string(displacements_name) + '[' + std::to_string(rank) + ']', displacement[rank]);
    blocks.push_back({displacement[rank], count[rank]});
  }
  return blocks;
}

std::vector<uint64_t> counts_of(const Blocks& blocks) {
  std::vector<uint64_t> counts;
  for (const Block& block : blocks) counts.push_back(block.count);
  return counts;
}

std::shared_ptr<Communicator> find(HcclComm comm, aclrtStream stream) {
  std::shared_ptr<Communicator> communicator = find(comm);
  require("stream", stream);
  return communicator;
}

void check_type(const char* name, HcclDataType type) {
  if (element_size(type) > 0) return;
  throw Error(HCCL_E_NOT_SUPPORT,
              std::string(name) + "=" + std::to_string(type) + " (" + name_of(type) + ") is not supported");
}

void check_reduction(HcclDataType type, HcclReduceOp op) {
  if (op < HCCL_REDUCE_SUM || op > HCCL_REDUCE_MIN) {
    throw Error(HCCL_E_NOT_SUPPORT, "op=" + std::to_string(op) + " must be sum, prod, max or min");
  }
  check_type("dataType", type);
  if (can_reduce(type, op)) return;
  throw Error(HCCL_E_NOT_SUPPORT, std::string("dataType=") + name_of(type) + " has no reduction op=" + name_of(op));
}

void check_same_type(HcclDataType send_type, HcclDataType receive_type) {
  check_type("sendType", send_type);
  check_type("recvType", receive_type);
  if (send_type == receive_type) return;
  throw Error(HCCL_E_PARA, std::string("sendType=") + name_of(send_type) + " is not recvType=" + name_of(receive_type));
}

void check_rank(const char* name, uint32_t rank, const Communicator& communicator) {
  if (rank < communicator.ranks()) return;
  throw Error(HCCL_E_PARA, std::string(name) + "=" + std::to_string(rank) + " must be below the " +
                               std::to_string(communicator.ranks()) + " ranks of comm");
}

void check_buffer(const char* name, const void* buffer, uint64_t count, HcclDataType type) {
  check_count("count", count);
  if (count == 0) return;
  require(name, buffer);
  const uint64_t bytes = count * element_size(type);
  if (is_device_pointer(buffer, bytes)) return;
  throw Error(HCCL_E_PARA, std::string(name) + ": its " + std::to_string(bytes) +
                               " bytes do not lie within one block of device memory");
}

}  // namespace hostcann::hccl
