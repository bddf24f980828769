// The operators on NPU tensors: the first call loads ascendspeed._npu, which is linked against torch_npu.
//
// ascendspeed.ops must import where there is no torch_npu, and before it is imported where there is. By the first call
// with an NPU tensor it has been.
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <pybind11/pybind11.h>
#include <torch/library.h>

#include <atomic>

#include "attention/dropout.h"
#include "attention/rules.h"
#include "torch/npu_kernels.h"
#include "torch/tensor_info.h"

namespace py = pybind11;

namespace ascendspeed {
namespace {

// The lock is Python's: a thread that held another one while it waits for Python's would stop those that hold Python's.
const NpuKernels& kernels() {
  static std::atomic<const NpuKernels*> loaded = nullptr;
  if (const NpuKernels* found = loaded.load(std::memory_order_acquire)) return *found;
  const py::gil_scoped_acquire gil;
  try {
    const py::capsule capsule = py::module_::import("ascendspeed._npu").attr("kernels");
    const auto* found = static_cast<const NpuKernels*>(PyCapsule_GetPointer(capsule.ptr(), kNpuKernels));
    if (found == nullptr) throw py::error_already_set();
    loaded.store(found, std::memory_order_release);
    return *found;
  } catch (const py::error_already_set& error) {
    TORCH_CHECK_NOT_IMPLEMENTED(false, "ascendspeed was built without its NPU kernels, or they do not load (",
                                error.what(), "): install it again where torch_npu is");
  }
}

void forward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  call_forward(op.schema(), stack, kernels().forward);
}

void backward(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  call_backward(op.schema(), stack, kernels().backward);
}

at::Tensor dropout_gen_mask(const at::Tensor& self, int64_t numel, double keep_prob, int64_t seed, int64_t offset) {
  raise_unless_ok(check_dropout_bits(numel, keep_prob));
  const c10::DeviceGuard guard(self.device());
  at::Tensor mask = at::empty({drop_mask_bytes(numel)}, self.options().dtype(at::kByte));
  if (numel > 0) kernels().dropout_gen_mask(mask, numel, keep_prob, seed, offset);
  return mask;
}

}  // namespace
}  // namespace ascendspeed

TORCH_LIBRARY_IMPL(ascendspeed, PrivateUse1, m) {
  m.impl("dropout_gen_mask", ascendspeed::dropout_gen_mask);
  m.impl("flash_attention_score", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::forward>());
  m.impl("flash_attention_score_grad", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::backward>());
}
