// One rank of a communicator, told line by line on stdin what to call:
// tests/hostcann/hccl_ranks.py writes the lines.
//
// Every line is answered by one: the code that the call returned, and its
// output or aclGetRecentErrMsg. Communicators, streams and buffers of device
// memory have names; the buffer `null` is a null pointer and `host` is host
// memory.
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "hccl/hccl.h"

namespace {

struct Buffer {
  void* address;
  size_t bytes;
};

std::map<std::string, HcclComm> comms;
std::map<std::string, aclrtStream> streams;
std::map<std::string, Buffer> buffers;
char host_memory[64];
std::string output;

// The words of a line, taken one after another.
struct Words {
  std::istringstream line;
  std::string word() {
    std::string value;
    line >> value;
    return value;
  }
  uint64_t number() { return std::stoull(word()); }
  HcclDataType type() { return static_cast<HcclDataType>(number()); }
  HcclReduceOp op() { return static_cast<HcclReduceOp>(number()); }
  HcclComm comm() { return comms[word()]; }
  aclrtStream stream() { return streams[word()]; }
  void* buffer() { return address(word()); }
  std::vector<uint64_t> numbers() {
    std::vector<uint64_t> values;
    std::istringstream list(word());
    for (std::string value; std::getline(list, value, ',');) values.push_back(std::stoull(value));
    return values;
  }
  static void* address(const std::string& name) {
    if (name == "null") return nullptr;
    return name == "host" ? host_memory : buffers.at(name).address;
  }
};

HcclRootInfo root_info(const std::string& text) {
  HcclRootInfo root{};
  std::memcpy(root.internal, text.data(), text.size());
  return root;
}

HcclCommConfig config(const std::string& name) {
  HcclCommConfig made;
  HcclCommConfigInit(&made);
  std::memcpy(made.hcclCommName, name.c_str(), name.size() + 1);
  return made;
}

int load(Words& w) {
  const std::string name = w.word(), path = w.word();
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), {}};
  Buffer& buffer = buffers[name];
  if (buffer.address != nullptr) aclrtFree(buffer.address);
  buffer.bytes = content.size();
  // A byte more: a buffer of an empty file is one, too.
  if (const int code = aclrtMalloc(&buffer.address, content.size() + 1, ACL_MEM_MALLOC_HUGE_FIRST); code != 0) {
    return code;
  }
  return aclrtMemcpy(buffer.address, content.size() + 1, content.data(), content.size(), ACL_MEMCPY_HOST_TO_DEVICE);
}

int save(Words& w) {
  const Buffer& buffer = buffers.at(w.word());
  std::string content(buffer.bytes, '\0');
  const int code =
      aclrtMemcpy(content.data(), content.size(), buffer.address, content.size(), ACL_MEMCPY_DEVICE_TO_HOST);
  std::ofstream(w.word(), std::ios::binary) << content;
  return code;
}

int init_all(Words& w) {
  std::vector<int32_t> devices;
  for (const uint64_t device : w.numbers()) devices.push_back(static_cast<int32_t>(device));
  std::vector<HcclComm> made(devices.size());
  const int code = HcclCommInitAll(static_cast<uint32_t>(devices.size()), devices.data(), made.data());
  for (size_t i = 0; i < made.size(); ++i) comms["all" + std::to_string(i)] = made[i];
  return code;
}

int sub(Words& w) {
  HcclComm& made = comms[w.word()];
  HcclComm parent = w.comm();
  const uint64_t id = w.number();
  const uint32_t rank = static_cast<uint32_t>(w.number());
  std::vector<uint32_t> ids;
  for (const uint64_t each : w.numbers()) ids.push_back(static_cast<uint32_t>(each));
  HcclCommConfig made_with = config("");
  made = &made;  // must be written
  const int code = HcclCreateSubCommConfig(&parent, static_cast<uint32_t>(ids.size()),
                                           ids.empty() ? nullptr : ids.data(), id, rank, &made_with, &made);
  output = made == nullptr ? "null" : "made";
  return code;
}

int batch(Words& w) {
  HcclComm comm = w.comm();
  aclrtStream stream = w.stream();
  std::vector<HcclSendRecvItem> items;
  for (std::string word = w.word(); !word.empty(); word = w.word()) {
    for (char& c : word) c = c == ':' ? ' ' : c;
    Words item{std::istringstream(word)};
    const auto direction = static_cast<HcclSendRecvType>(item.number());
    void* const buffer = item.buffer();
    const uint64_t count = item.number();
    const HcclDataType type = item.type();
    items.push_back({direction, buffer, count, type, static_cast<uint32_t>(item.number())});
  }
  return HcclBatchSendRecv(items.data(), static_cast<uint32_t>(items.size()), comm, stream);
}

using Call = std::function<int(Words&)>;

// Arguments are read in statements of their own: their order within a call is
// unspecified.
const std::map<std::string, Call> kCalls = {
    {"device", [](Words& w) { return aclrtSetDevice(static_cast<int32_t>(w.number())); }},
    {"stream", [](Words& w) { return aclrtCreateStream(&streams[w.word()]); }},
    {"load", load},
    {"save", save},
    {"destroy_stream", [](Words& w) { return aclrtDestroyStreamForce(w.stream()); }},
    {"synchronize", [](Words& w) { return aclrtSynchronizeStream(w.stream()); }},
    {"root",
     [](Words&) {
       HcclRootInfo root;
       const int code = HcclGetRootInfo(&root);
       output = root.internal;
       return code;
     }},
    {"init",
     [](Words& w) {
       HcclComm& comm = comms[w.word()];
       const HcclRootInfo root = root_info(w.word());
       const auto ranks = static_cast<uint32_t>(w.number()), rank = static_cast<uint32_t>(w.number());
       return HcclCommInitRootInfo(ranks, &root, rank, &comm);
     }},
    {"init_named",
     [](Words& w) {
       HcclComm& comm = comms[w.word()];
       const HcclRootInfo root = root_info(w.word());
       const auto ranks = static_cast<uint32_t>(w.number()), rank = static_cast<uint32_t>(w.number());
       const HcclCommConfig named = config(w.word());
       return HcclCommInitRootInfoConfig(ranks, &root, rank, &named, &comm);
     }},
    {"init_all", init_all},
    {"sub", sub},
    {"destroy", [](Words& w) { return HcclCommDestroy(w.comm()); }},
    {"name",
     [](Words& w) {
       char name[128];
       const int code = HcclGetCommName(w.comm(), name);
       output = name;
       return code;
     }},
    {"place",
     [](Words& w) {
       uint32_t size = 99, rank = 99;
       HcclComm comm = w.comm();
       const int code = HcclGetRankSize(comm, &size) + HcclGetRankId(comm, &rank);
       output = std::to_string(rank) + "/" + std::to_string(size);
       return code;
     }},
    {"async",
     [](Words& w) {
       HcclResult error = HCCL_E_RESERVED;
       const int code = HcclGetCommAsyncError(w.comm(), &error);
       output = std::to_string(error) + " " + HcclGetErrorString(error);
       return code;
     }},
    {"AllReduce",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclAllReduce(send, receive, count, type, w.op(), comm, stream);
     }},
    {"Reduce",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       const HcclReduceOp op = w.op();
       return HcclReduce(send, receive, count, type, op, static_cast<uint32_t>(w.number()), comm, stream);
     }},
    {"ReduceScatter",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclReduceScatter(send, receive, count, type, w.op(), comm, stream);
     }},
    {"ReduceScatterV",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       const HcclReduceOp op = w.op();
       const std::vector<uint64_t> counts = w.numbers(), offsets = w.numbers();
       return HcclReduceScatterV(send, counts.data(), offsets.data(), receive, count, type, op, comm, stream);
     }},
    {"Broadcast",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void* const buffer = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclBroadcast(buffer, count, type, static_cast<uint32_t>(w.number()), comm, stream);
     }},
    {"Scatter",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclScatter(send, receive, count, type, static_cast<uint32_t>(w.number()), comm, stream);
     }},
    {"AllGather",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       return HcclAllGather(send, receive, count, w.type(), comm, stream);
     }},
    {"AllGatherV",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       const std::vector<uint64_t> counts = w.numbers(), offsets = w.numbers();
       return HcclAllGatherV(send, count, receive, counts.data(), offsets.data(), type, comm, stream);
     }},
    {"AlltoAll",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclAlltoAll(send, count, type, receive, count, type, comm, stream);
     }},
    {"AlltoAllV",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const HcclDataType type = w.type();
       const std::vector<uint64_t> sends = w.numbers(), from = w.numbers(), receives = w.numbers(), to = w.numbers();
       return HcclAlltoAllV(send, sends.data(), from.data(), type, receive, receives.data(), to.data(), type, comm,
                            stream);
     }},
    {"AlltoAllVC",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void *const send = w.buffer(), *const receive = w.buffer();
       const HcclDataType type = w.type();
       return HcclAlltoAllVC(send, w.numbers().data(), type, receive, type, comm, stream);
     }},
    {"Barrier",
     [](Words& w) {
       HcclComm comm = w.comm();
       return HcclBarrier(comm, w.stream());
     }},
    {"Send",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void* const buffer = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclSend(buffer, count, type, static_cast<uint32_t>(w.number()), comm, stream);
     }},
    {"Recv",
     [](Words& w) {
       HcclComm comm = w.comm();
       aclrtStream stream = w.stream();
       void* const buffer = w.buffer();
       const uint64_t count = w.number();
       const HcclDataType type = w.type();
       return HcclRecv(buffer, count, type, static_cast<uint32_t>(w.number()), comm, stream);
     }},
    {"BatchSendRecv", batch},
};

}  // namespace

int main() {
  if (aclInit(nullptr) != 0) return 1;
  for (std::string line; std::getline(std::cin, line);) {
    Words words{std::istringstream(line)};
    output.clear();
    const int code = kCalls.at(words.word())(words);
    if (output.empty() && code != 0) {
      const char* const message = aclGetRecentErrMsg();
      output = message == nullptr ? "" : message;
    }
    std::cout << code << ' ' << output << std::endl;
  }
  return aclFinalize();
}
