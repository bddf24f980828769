// The exported functions that make, name and destroy communicators.
#include <atomic>
#include <cstring>
#include <iterator>
#include <thread>

#include "acl/acl.h"
#include "hccl/hccl.h"
#include "hostcann/hccl/registry.h"

namespace hostcann::hccl {
namespace {

constexpr uint64_t kNoSubCommunicator = 0xFFFFFFFF;

// By HcclResult.
constexpr const char* kErrors[] = {
    "no error",
    "parameter error",
    "null pointer",
    "out of memory",
    "internal error",
    "not supported",
    "resource not found",
    "resource unavailable",
    "system call error",
    "timeout",
    "open file failure",
    "tcp connect failure",
    "roce connect failure",
    "tcp transfer failure",
    "roce transfer failure",
    "runtime error",
    "driver error",
    "profiling error",
    "cce error",
    "network error",
    "try again",
    "error of a remote rank",
    "communicator suspending",
    "retry failure",
    "out of device memory",
};

std::atomic<int32_t> deterministic{0};

int32_t physical_device(int32_t device) {
  int32_t physical = 0;
  if (aclrtGetPhyDevIdByLogicDevId(device, &physical) != ACL_SUCCESS) {
    throw Error(HCCL_E_PARA, "device " + std::to_string(device) + " is not there");
  }
  return physical;
}

int32_t current_device() {
  int32_t device = 0;
  if (aclrtGetDevice(&device) != ACL_SUCCESS) {
    throw Error(HCCL_E_RUNTIME, "no device is set on this thread, call aclrtSetDevice first");
  }
  return physical_device(device);
}

void check_rank(uint32_t ranks, uint32_t rank, const char* ranks_name, const char* rank_name) {
  uint32_t devices = 0;
  if (aclrtGetDeviceCount(&devices) != ACL_SUCCESS) throw Error(HCCL_E_RUNTIME, "the devices cannot be counted");
  if (ranks == 0 || ranks > devices) {
    throw Error(HCCL_E_PARA, std::string(ranks_name) + "=" + std::to_string(ranks) + " must be from 1 to " +
                                 std::to_string(devices) + ", the devices of this host");
  }
  if (rank >= ranks) {
    throw Error(HCCL_E_PARA, std::string(rank_name) + "=" + std::to_string(rank) + " must be below " + ranks_name +
                                 "=" + std::to_string(ranks));
  }
}

std::string segment_of(const HcclRootInfo& root) {
  const std::string name(root.internal, strnlen(root.internal, HCCL_ROOT_INFO_BYTES));
  if (!is_segment_name(name)) throw Error(HCCL_E_PARA, "rootInfo is not from HcclGetRootInfo of this library");
  return name;
}

HcclResult init(const char* function, uint32_t ranks, const HcclRootInfo* root, uint32_t rank,
                const HcclCommConfig* config, HcclComm* comm) {
  return guarded(function, [&] {
    require("comm", comm);
    *comm = nullptr;
    require("rootInfo", root);
    const Settings settings = read_settings(config);
    check_rank(ranks, rank, "nRanks", "rank");
    *comm = add(std::make_shared<Communicator>(Membership{segment_of(*root), ranks, rank, current_device()}, settings));
  });
}

// FNV-1a, so that all ranks find out whether they mean the same ranks.
uint64_t hash(const uint32_t* values, uint32_t count) {
  uint64_t h = 0xcbf29ce484222325;
  for (uint32_t i = 0; i < count; ++i) h = (h ^ values[i]) * 0x100000001b3;
  return h;
}

void check_rank_ids(const Communicator& parent, uint32_t count, const uint32_t* ids, uint32_t mine) {
  std::vector<bool> seen(parent.ranks());
  for (uint32_t i = 0; i < count; ++i) {
    const std::string name = "rankIds[" + std::to_string(i) + "]=" + std::to_string(ids[i]);
    if (ids[i] >= parent.ranks()) {
      throw Error(HCCL_E_PARA, name + " must be below the " + std::to_string(parent.ranks()) + " ranks of comm");
    }
    if (seen[ids[i]]) throw Error(HCCL_E_PARA, name + " is there twice");
    seen[ids[i]] = true;
  }
  if (ids[mine] != parent.rank()) {
    throw Error(HCCL_E_PARA, "subCommRankId=" + std::to_string(mine) + " names rank " + std::to_string(ids[mine]) +
                                 " of comm, this is rank " + std::to_string(parent.rank()));
  }
}

void init_all(uint32_t count, const int32_t* devices, HcclComm* comms) {
  check_rank(count, 0, "ndev", "rank");
  const Settings settings = read_settings(nullptr);
  const std::string name = new_segment_name();
  std::vector<int32_t> physical;
  for (uint32_t i = 0; i < count; ++i) physical.push_back(physical_device(devices[i]));
  std::vector<std::shared_ptr<Communicator>> made(count);
  std::vector<std::optional<Error>> errors(count);
  {
    std::vector<std::jthread> threads;  // each rank waits for the others
    for (uint32_t rank = 0; rank < count; ++rank) {
      threads.emplace_back([&, rank] {
        try {
          made[rank] = std::make_shared<Communicator>(Membership{name, count, rank, physical[rank]}, settings);
        } catch (const Error& error) {
          errors[rank] = error;
        }
      });
    }
  }
  for (const auto& error : errors) {
    if (error) throw *error;
  }
  for (uint32_t rank = 0; rank < count; ++rank) comms[rank] = add(std::move(made[rank]));
}

}  // namespace
}  // namespace hostcann::hccl

using namespace hostcann::hccl;

HcclResult HcclGetRootInfo(HcclRootInfo* rootInfo) {
  return guarded("HcclGetRootInfo", [&] {
    require("rootInfo", rootInfo);
    remove_abandoned_segments();
    std::memset(rootInfo->internal, 0, HCCL_ROOT_INFO_BYTES);
    const std::string name = new_segment_name();
    std::memcpy(rootInfo->internal, name.data(), name.size());
  });
}

HcclResult HcclCommInitRootInfo(uint32_t nRanks, const HcclRootInfo* rootInfo, uint32_t rank, HcclComm* comm) {
  return init("HcclCommInitRootInfo", nRanks, rootInfo, rank, nullptr, comm);
}

HcclResult HcclCommInitRootInfoConfig(uint32_t nRanks, const HcclRootInfo* rootInfo, uint32_t rank,
                                      const HcclCommConfig* config, HcclComm* comm) {
  if (config == nullptr) return guarded("HcclCommInitRootInfoConfig", [&] { require("config", config); });
  return init("HcclCommInitRootInfoConfig", nRanks, rootInfo, rank, config, comm);
}

HcclResult HcclCommInitAll(uint32_t ndev, int32_t* devices, HcclComm* comms) {
  return guarded("HcclCommInitAll", [&] {
    require("devices", devices);
    require("comms", comms);
    init_all(ndev, devices, comms);
  });
}

HcclResult HcclCreateSubCommConfig(HcclComm* comm, uint32_t rankNum, uint32_t* rankIds, uint64_t subCommId,
                                   uint32_t subCommRankId, HcclCommConfig* config, HcclComm* subComm) {
  return guarded("HcclCreateSubCommConfig", [&] {
    require("comm", comm);
    require("subComm", subComm);
    *subComm = nullptr;
    const std::shared_ptr<Communicator> parent = find(*comm);
    if (rankIds == nullptr && subCommId == kNoSubCommunicator) return;
    require("rankIds", rankIds);
    require("config", config);
    if (!is_segment_name(parent->segment_name())) {
      throw Error(HCCL_E_NOT_SUPPORT, "comm is a sub-communicator itself, only one of all ranks can be split");
    }
    const Settings settings = read_settings(config);
    check_rank(rankNum, subCommRankId, "rankNum", "subCommRankId");
    check_rank_ids(*parent, rankNum, rankIds, subCommRankId);
    if (!parent->claim_sub_communicator(subCommId)) {
      throw Error(HCCL_E_PARA, "subCommId=" + std::to_string(subCommId) + " has been used before");
    }
    const Membership member{parent->segment_name() + "_" + std::to_string(subCommId), rankNum, subCommRankId,
                            parent->device(), hash(rankIds, rankNum)};
    *subComm = add(std::make_shared<Communicator>(member, settings));
  });
}

HcclResult HcclCommDestroy(HcclComm comm) {
  return guarded("HcclCommDestroy", [&] { remove(comm); });
}

HcclResult HcclGetCommName(HcclComm comm, char* commName) {
  return guarded("HcclGetCommName", [&] {
    require("commName", commName);
    const std::string name = find(comm)->name();
    std::memcpy(commName, name.c_str(), name.size() + 1);  // below 128 bytes, given or made
  });
}

HcclResult HcclGetRankSize(HcclComm comm, uint32_t* rankSize) {
  return guarded("HcclGetRankSize", [&] {
    require("rankSize", rankSize);
    *rankSize = find(comm)->ranks();
  });
}

HcclResult HcclGetRankId(HcclComm comm, uint32_t* rank) {
  return guarded("HcclGetRankId", [&] {
    require("rank", rank);
    *rank = find(comm)->rank();
  });
}

HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult* asyncError) {
  return guarded("HcclGetCommAsyncError", [&] {
    require("asyncError", asyncError);
    const std::optional<Error> failure = find(comm)->failure();
    *asyncError = failure ? failure->code : HCCL_SUCCESS;
    if (failure) hostcann::set_error(failure->what());
  });
}

const char* HcclGetErrorString(HcclResult code) {
  const auto index = static_cast<size_t>(code);
  return index < std::size(kErrors) ? kErrors[index] : "unknown error";
}

// What this library reads of an HcclCommConfig ends with the field of this capability.
uint32_t HcclGetCommConfigCapability(void) { return HCCL_COMM_CONFIG_EXEC_TIMEOUT + 1; }

HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue configValue) {
  return guarded("HcclSetConfig", [&] {
    if (config != HCCL_DETERMINISTIC) {
      throw Error(HCCL_E_NOT_SUPPORT, "config=" + std::to_string(config) + ", only HCCL_DETERMINISTIC is known");
    }
    if (configValue.value < 0 || configValue.value > 2) {
      throw Error(HCCL_E_PARA, "HCCL_DETERMINISTIC=" + std::to_string(configValue.value) + " must be 0, 1 or 2");
    }
    deterministic = configValue.value;  // and has no effect: every reduction here is deterministic
  });
}

HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue* configValue) {
  return guarded("HcclGetConfig", [&] {
    require("configValue", configValue);
    if (config != HCCL_DETERMINISTIC) {
      throw Error(HCCL_E_NOT_SUPPORT, "config=" + std::to_string(config) + ", only HCCL_DETERMINISTIC is known");
    }
    configValue->value = deterministic;
  });
}
