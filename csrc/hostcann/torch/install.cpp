// Which operator gets which kernel on npu tensors.
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/Exception.h>

#include <string>
#include <unordered_set>
#include <vector>

#include "hostcann/torch/boxed.h"
#include "hostcann/torch/kernels.h"

namespace hostcann {
namespace {

using c10::Dispatcher;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::KernelFunction;
using c10::OperatorHandle;
using torch::jit::Stack;

// torch_npu's own: they allocate, describe or transfer ownership of memory, and start nothing on the device.
bool is_left_to_torch_npu(const std::string& name) {
  static const auto& names = *new std::unordered_set<std::string>{
      "aten::_copy_from_and_resize",
      "aten::_has_compatible_shallow_copy_type",
      "aten::_pin_memory",
      "aten::_reshape_alias",
      "aten::alias",
      "aten::as_strided",
      "aten::as_strided_",
      "aten::detach",
      "aten::detach_",
      "aten::empty",
      "aten::empty_strided",
      "aten::is_pinned",
      "aten::is_set_to",
      "aten::lift",
      "aten::lift_fresh",
      "aten::new_empty_strided",
      "aten::record_stream",
      "aten::resize_",
      "aten::resize_as_",
      "aten::resize_storage_bytes_",
      "aten::set_",
      "aten::squeeze",
      "aten::squeeze_",
      "aten::t_",
      "aten::transpose_",
      "aten::unfold",
      "aten::unsqueeze",
      "aten::unsqueeze_",
      "aten::view",
      "aten::view_as_complex",
      "aten::view_as_real",
  };
  return names.count(name) > 0;
}

// Composites of ATen for any device that torch_npu replaces by its own. Those that draw random numbers and take no
// generator have to end in operators that take one.
bool is_composite(const OperatorHandle& op) {
  const std::string& name = op.schema().name();
  if (name == "aten::_to_copy" || name == "aten::contiguous" || name == "aten::empty_like") return true;
  return op.hasTag(at::Tag::nondeterministic_seeded) && !op.hasKernelForDispatchKey(DispatchKey::CPU);
}

bool takes_generator(const OperatorHandle& op) {
  for (const c10::Argument& argument : op.schema().arguments()) {
    if (argument.type()->str().find("Generator") != std::string::npos) return true;
  }
  return false;
}

void boxed(const OperatorHandle& op, DispatchKeySet, Stack* stack) { run_on_cpu(op, op, stack); }

void refuse(const OperatorHandle& op, DispatchKeySet, Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.operator_name(),
                              ": host CANN runs an operator of ATen by its CPU kernel, and this one has none");
}

void refuse_random(const OperatorHandle& op, DispatchKeySet, Stack*) {
  TORCH_CHECK_NOT_IMPLEMENTED(false, op.operator_name(),
                              ": host CANN has no random numbers for an operator that takes no generator");
}

// What ATen itself has for a device that it does not know, such as XLA in a build without it.
template <DispatchKey key>
void as_other_device(const OperatorHandle& op, DispatchKeySet keys, Stack* stack) {
  op.getComputedKernelForDispatchKey(key).callBoxed(op, keys, stack);
}

KernelFunction kernel_of(const OperatorHandle& op) {
  if (const KernelFunction* special = special_kernel(toString(op.operator_name()))) return *special;
  if (is_composite(op) && op.hasComputedKernelForDispatchKey(DispatchKey::XLA)) {
    return KernelFunction::makeFromBoxedFunction<&as_other_device<DispatchKey::XLA>>();
  }
  if (!op.hasComputedKernelForDispatchKey(DispatchKey::CPU)) return KernelFunction::makeFromBoxedFunction<&refuse>();
  // The choice of an attention kernel carries the tag, and draws nothing.
  if (op.hasTag(at::Tag::nondeterministic_seeded) && !takes_generator(op) &&
      op.schema().name() != "aten::_fused_sdp_choice") {
    return KernelFunction::makeFromBoxedFunction<&refuse_random>();
  }
  return KernelFunction::makeFromBoxedFunction<&boxed>();
}

// ATen's own operators. torch_npu defines more under the same prefix, which stay its own: they end in a call of aclnn,
// or of an operator by name, and host CANN refuses by name what it lacks.
bool is_of_aten(const OperatorHandle& op) {
  return op.schema().name().rfind("aten::", 0) == 0 && op.debug().find("RegisterSchema.cpp") != std::string::npos;
}

int install() {
  int count = 0;
  // Never taken back: torch tears its dispatcher down when the process ends, in an order that nobody promises.
  auto& registrations = *new std::vector<c10::RegistrationHandleRAII>;
  const auto replace = [&](const OperatorHandle& op, DispatchKey key, KernelFunction kernel) {
    if (!op.hasKernelForDispatchKey(key)) return;
    registrations.push_back(Dispatcher::singleton().registerImpl(op.operator_name(), key, std::move(kernel),
                                                                 std::nullopt, nullptr, "host CANN"));
    ++count;
  };
  for (const c10::OperatorName& name : Dispatcher::singleton().getAllOpNames()) {
    const std::optional<OperatorHandle> op = Dispatcher::singleton().findSchema(name);
    if (!op || !is_of_aten(*op)) continue;
    // torch_npu's gradients use operators of its own; ATen's are those of any other device.
    if (op->hasComputedKernelForDispatchKey(DispatchKey::AutogradXLA)) {
      replace(*op, DispatchKey::AutogradPrivateUse1,
              KernelFunction::makeFromBoxedFunction<&as_other_device<DispatchKey::AutogradXLA>>());
    }
    if (!is_left_to_torch_npu(name.name)) replace(*op, DispatchKey::PrivateUse1, kernel_of(*op));
  }
  return count;
}

}  // namespace
}  // namespace hostcann

// Call it once torch_npu is imported, which registers the operators that are replaced here. How many they are; a second
// call changes nothing.
extern "C" __attribute__((visibility("default"))) int hostcann_install_fallback() {
  static const int count = hostcann::install();
  return count;
}
