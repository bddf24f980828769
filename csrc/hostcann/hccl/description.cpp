#include "hostcann/hccl/description.h"

#include <iterator>

namespace hostcann::hccl {
namespace {

constexpr const char* kFunctions[] = {
    "HcclAllReduce",  "HcclReduce",    "HcclReduceScatter", "HcclReduceScatterV", "HcclBroadcast",
    "HcclScatter",    "HcclAllGather", "HcclAllGatherV",    "HcclAlltoAll",       "HcclAlltoAllV",
    "HcclAlltoAllVC", "HcclBarrier",   "HcclSend/HcclRecv",
};
constexpr const char* kDataTypes[] = {"int8",  "int16",  "int32",  "fp16", "fp32",  "int64", "uint64",
                                      "uint8", "uint16", "uint32", "fp64", "bfp16", "int128"};
constexpr const char* kReduceOps[] = {"sum", "prod", "max", "min"};

template <size_t N>
const char* entry(const char* const (&table)[N], uint32_t index) {
  return index < N ? table[index] : "unknown";
}

bool reduces(Function function) {
  return function == Function::kAllReduce || function == Function::kReduce || function == Function::kReduceScatter ||
         function == Function::kReduceScatterV;
}

bool has_root(Function function) {
  return function == Function::kReduce || function == Function::kBroadcast || function == Function::kScatter;
}

}  // namespace

const char* name_of(Function function) { return entry(kFunctions, static_cast<uint32_t>(function)); }
const char* name_of(HcclDataType type) { return entry(kDataTypes, static_cast<uint32_t>(type)); }
const char* name_of(HcclReduceOp op) { return entry(kReduceOps, static_cast<uint32_t>(op)); }

std::string describe(const Header& header) {
  const auto function = static_cast<Function>(header.function);
  const std::string name = name_of(function);
  if (function == Function::kBarrier) return name + "()";
  std::string text = name + "(count=" + std::to_string(header.count) +
                     ", dataType=" + name_of(static_cast<HcclDataType>(header.data_type));
  if (reduces(function)) text += std::string(", op=") + name_of(static_cast<HcclReduceOp>(header.op));
  if (has_root(function)) text += ", root=" + std::to_string(header.root);
  return text + ")";
}

}  // namespace hostcann::hccl
