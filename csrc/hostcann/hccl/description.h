// Names of functions, data types and reductions, as messages spell them.
#pragma once

#include <cstdint>
#include <string>

#include "hostcann/hccl/exchange.h"

namespace hostcann::hccl {

enum class Function : uint32_t {
  kAllReduce,
  kReduce,
  kReduceScatter,
  kReduceScatterV,
  kBroadcast,
  kScatter,
  kAllGather,
  kAllGatherV,
  kAlltoAll,
  kAlltoAllV,
  kAlltoAllVC,
  kBarrier,
  kPointToPoint,  // HcclSend, HcclRecv and HcclBatchSendRecv match each other
};

const char* name_of(Function function);
const char* name_of(HcclDataType type);
const char* name_of(HcclReduceOp op);

// HcclAllReduce(count=4, dataType=fp32, op=sum)
std::string describe(const Header& header);

}  // namespace hostcann::hccl
