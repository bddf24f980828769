#include "hostcann/torch/aliases.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <cstring>

#include "hostcann/torch/order.h"

namespace hostcann {
namespace {

using at::Tensor;
constexpr auto kNpu = c10::DeviceType::PrivateUse1;

bool is_npu(const Tensor& tensor) { return tensor.device().type() == kNpu; }

// Bytes from the first element to the last.
size_t bytes_of(const Tensor& tensor) {
  return at::detail::computeStorageNbytes(tensor.sizes(), tensor.strides(), tensor.itemsize());
}

}  // namespace

void Aliases::add_device(c10::Device device) {
  if (std::find(devices_.begin(), devices_.end(), device) == devices_.end()) devices_.push_back(device);
}

// What a card cannot reach is refused here too, in torch's words. Numbers are passed by value wherever they lie.
void Aliases::check_device(const std::string& name, const Tensor& tensor) {
  if (!is_npu(tensor) && tensor.dim() == 0) return;
  if (!common_) common_ = tensor.device();
  TORCH_CHECK(*common_ == tensor.device(),
              "Expected all tensors to be on the same device, but found at least two devices, ", *common_, " and ",
              tensor.device(), "! (when checking argument for argument ", name, " in method ", function_, ")");
}

Tensor Aliases::to_cpu(const std::string& name, const Tensor& tensor, bool anywhere) {
  if (!tensor.defined()) return tensor;
  if (!anywhere) check_device(name, tensor);
  if (!is_npu(tensor)) {
    on_cpu_.push_back(tensor);
    return tensor;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided && !tensor.is_quantized() && tensor.has_storage(),
                              function_, ": ", name, ": host CANN has strided tensors only, not layout ",
                              tensor.layout(), " and dtype ", tensor.dtype());
  add_device(tensor.device());
  const c10::Storage& storage = tensor.storage();
  auto found = storages_.find(storage.unsafeGetStorageImpl());
  if (found == storages_.end()) {
    c10::Storage same(c10::Storage::use_byte_size_t(), storage.nbytes(),
                      c10::DataPtr(storage.mutable_data(), c10::Device(at::kCPU)), c10::GetAllocator(at::kCPU),
                      /*resizable=*/true);
    found = storages_.emplace(storage.unsafeGetStorageImpl(), std::move(same)).first;
  }
  Tensor cpu = at::detail::make_tensor<c10::TensorImpl>(c10::Storage(found->second),
                                                        c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  cpu.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.is_conj()) cpu._set_conj(true);
  if (tensor.is_neg()) cpu._set_neg(true);
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
  pairs_.push_back({tensor, cpu, found->second.data()});
  return cpu;
}

c10::IValue Aliases::to_cpu(const std::string& name, const c10::IValue& value, bool anywhere) {
  if (value.isTensor()) return to_cpu(name, value.toTensor(), anywhere);
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(to_cpu(name, tensor, anywhere));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
      list.push_back(tensor ? std::optional(to_cpu(name, *tensor, anywhere)) : std::nullopt);
    }
    return list;
  }
  if (value.isDevice()) {
    explicit_ = value.toDevice();
    if (explicit_->type() != kNpu) return value;
    explicit_ = with_index(*explicit_);
    add_device(*explicit_);
    return c10::Device(at::kCPU);
  }
  return value;
}

std::optional<c10::Device> Aliases::result_device() const {
  if (explicit_) return explicit_->type() == kNpu ? explicit_ : std::nullopt;
  if (pairs_.empty()) return std::nullopt;
  return pairs_.front().npu.device();
}

Tensor Aliases::to_npu(const Tensor& result) {
  if (!result.defined() || !result.device().is_cpu()) return result;
  for (const Pair& pair : pairs_) {
    if (pair.cpu.is_same(result)) return pair.npu;
  }
  for (const Tensor& tensor : on_cpu_) {
    if (tensor.is_same(result)) return result;
  }
  for (const Pair& pair : pairs_) {
    if (!result.has_storage() || !result.storage().is_alias_of(pair.cpu.storage())) continue;
    TORCH_CHECK_NOT_IMPLEMENTED(result.dtype() == pair.cpu.dtype(), function_, ": host CANN has no view of ",
                                pair.cpu.dtype(), " as ", result.dtype());
    Tensor view = at::as_strided(pair.npu, result.sizes(), result.strides(), result.storage_offset());
    if (result.is_conj() != view.is_conj()) view._set_conj(result.is_conj());
    if (result.is_neg() != view.is_neg()) view._set_neg(result.is_neg());
    return view;
  }
  const std::optional<c10::Device> device = result_device();
  if (!device) return result;
  TORCH_CHECK_NOT_IMPLEMENTED(result.layout() == at::kStrided && !result.is_quantized(), function_,
                              ": host CANN has strided tensors only, not layout ", result.layout(), " and dtype ",
                              result.dtype());
  const Tensor plain = result.resolve_conj().resolve_neg();
  Tensor copy = at::empty_strided(plain.sizes(), plain.strides(), plain.options().device(*device));
  if (plain.numel() == 0) return copy;
  // The allocator gives memory again that work on this stream, queued by another thread meanwhile, may still use.
  wait_for_current_streams({*device});
  std::memcpy(copy.mutable_data_ptr(), plain.const_data_ptr(), bytes_of(plain));
  if (plain.unsafeGetTensorImpl()->is_wrapped_number()) copy.unsafeGetTensorImpl()->set_wrapped_number(true);
  return copy;
}

c10::IValue Aliases::to_npu(const c10::IValue& value) {
  if (value.isTensor()) return to_npu(value.toTensor());
  if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) list.push_back(to_npu(tensor));
    return list;
  }
  return value;
}

void Aliases::write_back() {
  for (const Pair& pair : pairs_) {
    const Tensor& cpu = pair.cpu;
    const bool moved = cpu.storage().data() != pair.data;
    if (!moved && cpu.sizes() == pair.npu.sizes() && cpu.strides() == pair.npu.strides() &&
        cpu.storage_offset() == pair.npu.storage_offset()) {
      continue;
    }
    if (moved) {  // the storage grew; grow the original one, so that whatever shares it still does
      pair.npu.resize_(cpu.sizes());
      wait_for_current_streams({pair.npu.device()});
    }
    pair.npu.unsafeGetTensorImpl()->set_sizes_and_strides(cpu.sizes(), cpu.strides(), cpu.storage_offset());
    if (moved && cpu.numel() > 0) std::memcpy(pair.npu.mutable_data_ptr(), cpu.const_data_ptr(), bytes_of(cpu));
  }
}

}  // namespace hostcann
