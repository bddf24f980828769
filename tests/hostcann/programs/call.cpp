// call.h, in one object file for all programs.
#include "call.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "acl/acl.h"

namespace {

void check(int code, const char* call) {
  if (code == ACL_SUCCESS) return;
  const char* message = aclGetRecentErrMsg();
  std::fprintf(stderr, "%s failed: %d %s\n", call, code, message == nullptr ? "" : message);
  std::exit(1);
}

int refused(const char* phase, int code) {
  const char* message = aclGetRecentErrMsg();
  std::printf("%s %d %s\n", phase, code, message == nullptr ? "(no message)" : message);
  return 0;
}

std::vector<int64_t> numbers(std::istream& file, int lists = 1) {
  size_t count = 0;
  file >> count;
  std::vector<int64_t> values(count * lists);
  for (int64_t& value : values) file >> value;
  return values;
}

struct Memory {
  void* data;
  size_t bytes;
};

}  // namespace

struct Call::Parts {
  std::string folder;
  aclrtStream stream = nullptr;
  std::map<std::string, aclTensor*> tensors;
  std::map<std::string, aclIntArray*> ints;
  std::map<std::string, std::string> values;
  std::map<std::string, Memory> memory;
  std::vector<std::string> outputs;

  void read_tensor(std::istream& file, const std::string& name, bool output) {
    int dtype = 0, format = 0;
    int64_t offset = 0;
    file >> dtype >> format >> offset;
    const std::vector<int64_t> sizes_and_strides = numbers(file, 2), storage = numbers(file);
    std::ifstream bytes_file(folder + name + ".in", std::ios::binary | std::ios::ate);
    std::vector<char> bytes(static_cast<size_t>(bytes_file.tellg()));
    bytes_file.seekg(0).read(bytes.data(), static_cast<long>(bytes.size()));
    Memory copy{nullptr, bytes.size()};
    if (!bytes.empty()) {
      check(aclrtMalloc(&copy.data, bytes.size(), ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
      check(aclrtMemcpy(copy.data, bytes.size(), bytes.data(), bytes.size(), ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
    }
    const size_t rank = sizes_and_strides.size() / 2;
    tensors[name] = aclCreateTensor(sizes_and_strides.data(), rank, static_cast<aclDataType>(dtype),
                                    sizes_and_strides.data() + rank, offset, static_cast<aclFormat>(format),
                                    storage.data(), storage.size(), copy.data);
    memory[name] = copy;
    if (output) outputs.push_back(name);
  }

  void write_tensor(const std::string& name) const {
    const Memory& from = memory.at(name);
    std::vector<char> bytes(from.bytes);
    if (!bytes.empty()) {
      check(aclrtMemcpy(bytes.data(), bytes.size(), from.data, bytes.size(), ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
    }
    std::ofstream(folder + name + ".out", std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
  }
};

Call::Call(const char* folder) : parts_(new Parts) {
  Parts& p = *parts_;
  p.folder = std::string(folder) + "/";
  check(aclInit(nullptr), "aclInit");
  check(aclrtSetDevice(0), "aclrtSetDevice");
  check(aclrtCreateStream(&p.stream), "aclrtCreateStream");
  std::ifstream file(p.folder + "call.txt");
  for (std::string kind, name; file >> kind >> name;) {
    if (kind == "ints") {
      const std::vector<int64_t> values = numbers(file);
      p.ints[name] = aclCreateIntArray(values.data(), values.size());
    } else if (kind == "value") {
      std::getline(file >> std::ws, p.values[name]);
    } else {
      p.read_tensor(file, name, kind == "output");
    }
  }
}

aclTensor* Call::tensor(const char* name) const {
  const auto found = parts_->tensors.find(name);
  return found == parts_->tensors.end() ? nullptr : found->second;
}

aclIntArray* Call::ints(const char* name) const {
  const auto found = parts_->ints.find(name);
  return found == parts_->ints.end() ? nullptr : found->second;
}

char* Call::text(const char* name) {
  const auto found = parts_->values.find(name);
  return found == parts_->values.end() ? nullptr : found->second.data() + 1;  // after the quote that keeps "" a line
}

double Call::real(const char* name) const { return std::atof(parts_->values.at(name).c_str()); }
int64_t Call::integer(const char* name) const { return std::atoll(parts_->values.at(name).c_str()); }

int Call::run(int first_code, aclnnStatus (*second_phase)(void*, uint64_t, aclOpExecutor*, aclrtStream)) {
  if (first_code != ACLNN_SUCCESS) return refused("first", first_code);
  const Parts& p = *parts_;
  void* workspace = nullptr;
  if (bytes > 0) check(aclrtMalloc(&workspace, bytes, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
  const int code = second_phase(workspace, bytes, executor, p.stream);
  if (code != ACLNN_SUCCESS) return refused("second", code);
  for (const auto& [name, tensor] : p.tensors) check(aclDestroyTensor(tensor), "aclDestroyTensor");
  for (const auto& [name, array] : p.ints) check(aclDestroyIntArray(array), "aclDestroyIntArray");
  check(aclrtSynchronizeStream(p.stream), "aclrtSynchronizeStream");
  for (const std::string& name : p.outputs) p.write_tensor(name);
  if (workspace != nullptr) check(aclrtFree(workspace), "aclrtFree");
  for (const auto& [name, memory] : p.memory) {
    if (memory.data != nullptr) check(aclrtFree(memory.data), "aclrtFree");
  }
  check(aclrtDestroyStream(p.stream), "aclrtDestroyStream");
  check(aclrtResetDevice(0), "aclrtResetDevice");
  check(aclFinalize(), "aclFinalize");
  std::puts("done");
  return 0;
}
