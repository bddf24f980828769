// The tensors of one call, npu to CPU and back. Both kinds of memory are the host's, so that an npu tensor becomes a
// CPU tensor of the same bytes.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace hostcann {

class Aliases {
 public:
  // `function` is for messages.
  explicit Aliases(std::string function) : function_(std::move(function)) {}

  // The argument as the CPU kernel takes it. `name` is for messages; `anywhere`: it may lie on another device than the
  // rest.
  c10::IValue to_cpu(const std::string& name, const c10::IValue& value, bool anywhere);

  // After the kernel: its result as the caller gets it. An argument comes back as that argument, a view of one as a
  // view of it, anything else as a copy on the device. Call `write_back` before.
  c10::IValue to_npu(const c10::IValue& value);

  // Tensors that the kernel has resized, `out` arguments mostly.
  void write_back();

  // Those of the arguments and of an explicit `device`, each once.
  const std::vector<c10::Device>& devices() const { return devices_; }

  // Where the results go: an explicit `device`, else that of the first npu argument. Nothing: they stay on the CPU.
  std::optional<c10::Device> result_device() const;

 private:
  struct Pair {
    at::Tensor npu, cpu;
    const void* data;  // of the storage before the kernel
  };

  at::Tensor to_cpu(const std::string& name, const at::Tensor& tensor, bool anywhere);
  at::Tensor to_npu(const at::Tensor& tensor);
  void check_device(const std::string& name, const at::Tensor& tensor);
  void add_device(c10::Device device);

  std::string function_;
  std::unordered_map<const c10::StorageImpl*, c10::Storage> storages_;  // one for all views of it: they still overlap
  std::vector<Pair> pairs_;
  std::vector<at::Tensor> on_cpu_;  // arguments that were there already
  std::vector<c10::Device> devices_;
  std::optional<c10::Device> common_, explicit_;
};

}  // namespace hostcann
