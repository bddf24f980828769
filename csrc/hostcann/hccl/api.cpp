// The exported collectives: arguments are checked here, what ranks must agree on is stated here, and the rest is put on
// the stream.
#include <cstring>

#include "hccl/hccl.h"
#include "hostcann/hccl/checks.h"
#include "hostcann/hccl/reduction.h"

namespace hostcann::hccl {
namespace {

using Agreement = Communicator::Agreement;

// What ranks agree on where every message between any two has the same count.
Agreement same_count(const Communicator& c, Function function, uint64_t count, HcclDataType type, uint32_t op = 0,
                     uint32_t root = 0) {
  const std::vector<uint64_t> counts(c.ranks(), count);
  return {{static_cast<uint32_t>(function), static_cast<uint32_t>(type), op, root, 0}, counts, counts};
}

Agreement own_counts(Function function, HcclDataType type, uint32_t op, std::vector<uint64_t> sends,
                     std::vector<uint64_t> expects) {
  return {
      {static_cast<uint32_t>(function), static_cast<uint32_t>(type), op, 0, 0}, std::move(sends), std::move(expects)};
}

const char* bytes(const void* buffer) { return static_cast<const char*>(buffer); }
char* bytes(void* buffer) { return static_cast<char*>(buffer); }

// The three functions that differ in how they state their blocks. The ABI has recvBuf const, and it is written.
void all_to_all(Communicator& c, Function function, const void* send, Blocks sends, const void* receive,
                Blocks receives, HcclDataType type, aclrtStream stream) {
  check_buffer("sendBuf", send, extent(sends), type);
  check_buffer("recvBuf", receive, extent(receives), type);
  if (send == receive && send != nullptr) throw Error(HCCL_E_PARA, "sendBuf and recvBuf must not be the same");
  if (sends[c.rank()].count != receives[c.rank()].count) {
    throw Error(HCCL_E_PARA, "rank " + std::to_string(c.rank()) + " sends " + std::to_string(sends[c.rank()].count) +
                                 " elements to itself and receives " + std::to_string(receives[c.rank()].count));
  }
  const Agreement agreement = own_counts(function, type, 0, counts_of(sends), counts_of(receives));
  c.collective(stream, agreement,
               [=, to = static_cast<char*>(const_cast<void*>(receive)), sends = std::move(sends),
                receives = std::move(receives)](Exchange& exchange) {
                 exchange_blocks(exchange, bytes(send), sends, to, receives, element_size(type));
               });
}

// Blocks one after another, of the counts matrix[from], matrix[from + step], ...
Blocks packed_blocks(const uint64_t* matrix, uint32_t ranks, uint64_t from, uint64_t step) {
  Blocks blocks;
  uint64_t offset = 0;
  for (uint32_t rank = 0; rank < ranks; ++rank) {
    const uint64_t count = matrix[from + rank * step];
    blocks.push_back({offset, count});
    offset += count;
  }
  return blocks;
}

Message point_to_point(const HcclSendRecvItem& item) {
  const bool send = item.sendRecvType == HCCL_SEND;
  const Header header{static_cast<uint32_t>(Function::kPointToPoint), static_cast<uint32_t>(item.dataType), 0, 0,
                      item.count};
  return {send, item.remoteRank, true, header, bytes(item.buf), item.count * element_size(item.dataType), send};
}

void check_item(const HcclSendRecvItem& item, const char* buffer, const char* rank, const Communicator& c) {
  check_type("dataType", item.dataType);
  check_rank(rank, item.remoteRank, c);
  check_buffer(buffer, item.buf, item.count, item.dataType);
}

void send_or_receive(const char* called, const HcclSendRecvItem& item, const char* buffer, const char* rank,
                     HcclComm comm, aclrtStream stream) {
  const auto c = find(comm, stream);
  check_item(item, buffer, rank, *c);
  if (item.remoteRank == c->rank()) {
    throw Error(HCCL_E_PARA, std::string(rank) + "=" + std::to_string(item.remoteRank) + " is this rank itself");
  }
  c->point_to_point(called, stream, {point_to_point(item)}, [] {});
}

// What a rank sends to itself, copied; both halves must be in the batch.
std::function<void()> copy_to_self(const HcclSendRecvItem* send, const HcclSendRecvItem* receive) {
  if (send == nullptr && receive == nullptr) return [] {};
  if (send == nullptr || receive == nullptr || send->count != receive->count || send->dataType != receive->dataType) {
    throw Error(HCCL_E_PARA, "sendRecvInfo: what this rank sends to itself is not what it receives from itself");
  }
  return [to = receive->buf, from = send->buf, size = send->count * element_size(send->dataType)] {
    if (size > 0) std::memmove(to, from, size);
  };
}

}  // namespace
}  // namespace hostcann::hccl

using namespace hostcann::hccl;

HcclResult HcclAllReduce(void* sendBuf, void* recvBuf, uint64_t count, HcclDataType dataType, HcclReduceOp op,
                         HcclComm comm, aclrtStream stream) {
  return guarded("HcclAllReduce", [&] {
    const auto c = find(comm, stream);
    check_reduction(dataType, op);
    check_buffer("sendBuf", sendBuf, count, dataType);
    check_buffer("recvBuf", recvBuf, count, dataType);
    c->collective(stream, same_count(*c, Function::kAllReduce, count, dataType, op), [=](Exchange& exchange) {
      all_reduce(exchange, bytes(sendBuf), bytes(recvBuf), count, {dataType, op});
    });
  });
}

HcclResult HcclReduce(void* sendBuf, void* recvBuf, uint64_t count, HcclDataType dataType, HcclReduceOp op,
                      uint32_t root, HcclComm comm, aclrtStream stream) {
  return guarded("HcclReduce", [&] {
    const auto c = find(comm, stream);
    check_reduction(dataType, op);
    hostcann::hccl::check_rank("root", root, *c);
    check_buffer("sendBuf", sendBuf, count, dataType);
    if (c->rank() == root) check_buffer("recvBuf", recvBuf, count, dataType);
    c->collective(stream, same_count(*c, Function::kReduce, count, dataType, op, root), [=](Exchange& exchange) {
      reduce_to(exchange, bytes(sendBuf), bytes(recvBuf), count, {dataType, op}, root);
    });
  });
}

HcclResult HcclReduceScatter(void* sendBuf, void* recvBuf, uint64_t recvCount, HcclDataType dataType, HcclReduceOp op,
                             HcclComm comm, aclrtStream stream) {
  return guarded("HcclReduceScatter", [&] {
    const auto c = find(comm, stream);
    check_reduction(dataType, op);
    check_buffer("recvBuf", recvBuf, recvCount, dataType);
    check_buffer("sendBuf", sendBuf, recvCount * c->ranks(), dataType);
    c->collective(stream, same_count(*c, Function::kReduceScatter, recvCount, dataType, op), [=](Exchange& exchange) {
      reduce_scatter(exchange, bytes(sendBuf), equal_blocks(exchange.ranks(), recvCount), bytes(recvBuf),
                     {dataType, op});
    });
  });
}

HcclResult HcclReduceScatterV(void* sendBuf, const void* sendCounts, const void* sendDispls, void* recvBuf,
                              uint64_t recvCount, HcclDataType dataType, HcclReduceOp op, HcclComm comm,
                              aclrtStream stream) {
  return guarded("HcclReduceScatterV", [&] {
    const auto c = find(comm, stream);
    check_reduction(dataType, op);
    Blocks blocks = read_blocks("sendCounts", sendCounts, "sendDispls", sendDispls, c->ranks());
    check_buffer("sendBuf", sendBuf, extent(blocks), dataType);
    check_buffer("recvBuf", recvBuf, recvCount, dataType);
    if (blocks[c->rank()].count != recvCount) {
      throw Error(HCCL_E_PARA, "recvCount=" + std::to_string(recvCount) + " is not sendCounts[" +
                                   std::to_string(c->rank()) + "]=" + std::to_string(blocks[c->rank()].count));
    }
    const Agreement agreement = own_counts(Function::kReduceScatterV, dataType, op, counts_of(blocks),
                                           std::vector<uint64_t>(c->ranks(), recvCount));
    c->collective(stream, agreement, [=, blocks = std::move(blocks)](Exchange& exchange) {
      reduce_scatter(exchange, bytes(sendBuf), blocks, bytes(recvBuf), {dataType, op});
    });
  });
}

HcclResult HcclBroadcast(void* buf, uint64_t count, HcclDataType dataType, uint32_t root, HcclComm comm,
                         aclrtStream stream) {
  return guarded("HcclBroadcast", [&] {
    const auto c = find(comm, stream);
    check_type("dataType", dataType);
    hostcann::hccl::check_rank("root", root, *c);
    check_buffer("buf", buf, count, dataType);
    c->collective(stream, same_count(*c, Function::kBroadcast, count, dataType, 0, root), [=](Exchange& exchange) {
      const uint32_t ranks = exchange.ranks();
      const bool is_root = exchange.rank() == root;
      exchange_blocks(exchange, bytes(buf), same_block(ranks, is_root ? count : 0), bytes(buf),
                      only_block(ranks, root, {0, count}), element_size(dataType));
    });
  });
}

HcclResult HcclScatter(void* sendBuf, void* recvBuf, uint64_t recvCount, HcclDataType dataType, uint32_t root,
                       HcclComm comm, aclrtStream stream) {
  return guarded("HcclScatter", [&] {
    const auto c = find(comm, stream);
    check_type("dataType", dataType);
    hostcann::hccl::check_rank("root", root, *c);
    check_buffer("recvBuf", recvBuf, recvCount, dataType);
    if (c->rank() == root) check_buffer("sendBuf", sendBuf, recvCount * c->ranks(), dataType);
    c->collective(stream, same_count(*c, Function::kScatter, recvCount, dataType, 0, root), [=](Exchange& exchange) {
      const uint32_t ranks = exchange.ranks();
      exchange_blocks(exchange, bytes(sendBuf), equal_blocks(ranks, exchange.rank() == root ? recvCount : 0),
                      bytes(recvBuf), only_block(ranks, root, {0, recvCount}), element_size(dataType));
    });
  });
}

HcclResult HcclAllGather(void* sendBuf, void* recvBuf, uint64_t sendCount, HcclDataType dataType, HcclComm comm,
                         aclrtStream stream) {
  return guarded("HcclAllGather", [&] {
    const auto c = find(comm, stream);
    check_type("dataType", dataType);
    check_buffer("sendBuf", sendBuf, sendCount, dataType);
    check_buffer("recvBuf", recvBuf, sendCount * c->ranks(), dataType);
    c->collective(stream, same_count(*c, Function::kAllGather, sendCount, dataType), [=](Exchange& exchange) {
      exchange_blocks(exchange, bytes(sendBuf), same_block(exchange.ranks(), sendCount), bytes(recvBuf),
                      equal_blocks(exchange.ranks(), sendCount), element_size(dataType));
    });
  });
}

HcclResult HcclAllGatherV(void* sendBuf, uint64_t sendCount, void* recvBuf, const void* recvCounts,
                          const void* recvDispls, HcclDataType dataType, HcclComm comm, aclrtStream stream) {
  return guarded("HcclAllGatherV", [&] {
    const auto c = find(comm, stream);
    check_type("dataType", dataType);
    Blocks blocks = read_blocks("recvCounts", recvCounts, "recvDispls", recvDispls, c->ranks());
    check_buffer("sendBuf", sendBuf, sendCount, dataType);
    check_buffer("recvBuf", recvBuf, extent(blocks), dataType);
    if (blocks[c->rank()].count != sendCount) {
      throw Error(HCCL_E_PARA, "sendCount=" + std::to_string(sendCount) + " is not recvCounts[" +
                                   std::to_string(c->rank()) + "]=" + std::to_string(blocks[c->rank()].count));
    }
    const Agreement agreement =
        own_counts(Function::kAllGatherV, dataType, 0, std::vector<uint64_t>(c->ranks(), sendCount), counts_of(blocks));
    c->collective(stream, agreement, [=, blocks = std::move(blocks)](Exchange& exchange) {
      exchange_blocks(exchange, bytes(sendBuf), same_block(exchange.ranks(), sendCount), bytes(recvBuf), blocks,
                      element_size(dataType));
    });
  });
}

HcclResult HcclAlltoAll(const void* sendBuf, uint64_t sendCount, HcclDataType sendType, const void* recvBuf,
                        uint64_t recvCount, HcclDataType recvType, HcclComm comm, aclrtStream stream) {
  return guarded("HcclAlltoAll", [&] {
    const auto c = find(comm, stream);
    check_same_type(sendType, recvType);
    if (sendCount != recvCount) {
      throw Error(HCCL_E_PARA,
                  "sendCount=" + std::to_string(sendCount) + " is not recvCount=" + std::to_string(recvCount));
    }
    all_to_all(*c, Function::kAlltoAll, sendBuf, equal_blocks(c->ranks(), sendCount), recvBuf,
               equal_blocks(c->ranks(), recvCount), sendType, stream);
  });
}

HcclResult HcclAlltoAllV(const void* sendBuf, const void* sendCounts, const void* sdispls, HcclDataType sendType,
                         const void* recvBuf, const void* recvCounts, const void* rdispls, HcclDataType recvType,
                         HcclComm comm, aclrtStream stream) {
  return guarded("HcclAlltoAllV", [&] {
    const auto c = find(comm, stream);
    check_same_type(sendType, recvType);
    all_to_all(*c, Function::kAlltoAllV, sendBuf, read_blocks("sendCounts", sendCounts, "sdispls", sdispls, c->ranks()),
               recvBuf, read_blocks("recvCounts", recvCounts, "rdispls", rdispls, c->ranks()), sendType, stream);
  });
}

HcclResult HcclAlltoAllVC(const void* sendBuf, const void* sendCountMatrix, HcclDataType sendType, const void* recvBuf,
                          HcclDataType recvType, HcclComm comm, aclrtStream stream) {
  return guarded("HcclAlltoAllVC", [&] {
    const auto c = find(comm, stream);
    check_same_type(sendType, recvType);
    require("sendCountMatrix", sendCountMatrix);
    const auto* const matrix = static_cast<const uint64_t*>(sendCountMatrix);
    all_to_all(*c, Function::kAlltoAllVC, sendBuf,
               packed_blocks(matrix, c->ranks(), uint64_t{c->rank()} * c->ranks(), 1), recvBuf,
               packed_blocks(matrix, c->ranks(), c->rank(), c->ranks()), sendType, stream);
  });
}

HcclResult HcclBarrier(HcclComm comm, aclrtStream stream) {
  return guarded("HcclBarrier", [&] {
    const auto c = find(comm, stream);
    c->collective(stream, same_count(*c, Function::kBarrier, 0, HCCL_DATA_TYPE_INT8), [](Exchange&) {});
  });
}

HcclResult HcclSend(void* sendBuf, uint64_t count, HcclDataType dataType, uint32_t destRank, HcclComm comm,
                    aclrtStream stream) {
  return guarded("HcclSend", [&] {
    send_or_receive("HcclSend", {HCCL_SEND, sendBuf, count, dataType, destRank}, "sendBuf", "destRank", comm, stream);
  });
}

HcclResult HcclRecv(void* recvBuf, uint64_t count, HcclDataType dataType, uint32_t srcRank, HcclComm comm,
                    aclrtStream stream) {
  return guarded("HcclRecv", [&] {
    send_or_receive("HcclRecv", {HCCL_RECV, recvBuf, count, dataType, srcRank}, "recvBuf", "srcRank", comm, stream);
  });
}

HcclResult HcclBatchSendRecv(HcclSendRecvItem* sendRecvInfo, uint32_t itemNum, HcclComm comm, aclrtStream stream) {
  return guarded("HcclBatchSendRecv", [&] {
    const auto c = find(comm, stream);
    if (itemNum > 0) require("sendRecvInfo", sendRecvInfo);
    std::vector<Message> messages;
    std::vector<const HcclSendRecvItem*> first(2 * c->ranks());  // by rank and direction
    for (uint32_t i = 0; i < itemNum; ++i) {
      const HcclSendRecvItem& item = sendRecvInfo[i];
      const std::string name = "sendRecvInfo[" + std::to_string(i) + "]";
      if (item.sendRecvType != HCCL_SEND && item.sendRecvType != HCCL_RECV) {
        throw Error(HCCL_E_PARA, name + ".sendRecvType=" + std::to_string(item.sendRecvType) + " must be 0 or 1");
      }
      check_item(item, (name + ".buf").c_str(), (name + ".remoteRank").c_str(), *c);
      const HcclSendRecvItem*& same = first[2 * item.remoteRank + item.sendRecvType];
      if (same != nullptr) throw Error(HCCL_E_PARA, name + " repeats a direction and rank of the batch");
      same = &item;
      if (item.remoteRank != c->rank()) messages.push_back(point_to_point(item));
    }
    auto local = copy_to_self(first[2 * c->rank() + HCCL_SEND], first[2 * c->rank() + HCCL_RECV]);
    c->point_to_point("HcclBatchSendRecv", stream, std::move(messages), std::move(local));
  });
}
