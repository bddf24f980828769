#include "hostcann/torch/boxed.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <algorithm>
#include <string_view>

#include "hostcann/torch/aliases.h"
#include "hostcann/torch/generator.h"
#include "hostcann/torch/order.h"

namespace hostcann {
namespace {

bool is_generator(const c10::Argument& argument) {
  const c10::Type& type = *argument.type();
  const auto kind = [](const c10::Type& of) { return of.kind() == c10::TypeKind::GeneratorType; };
  return kind(type) || (type.kind() == c10::TypeKind::OptionalType && kind(*type.containedType(0)));
}

// Tensors that ATen's device kernels too take from another device: both sides of a copy, indices, and numbers that
// _foreach_* reads on the host.
bool may_be_anywhere(const std::string& function, const std::string& argument) {
  constexpr std::string_view kCopies[] = {"aten::copy_", "aten::_copy_from", "aten::_foreach_copy_"};
  return std::find(std::begin(kCopies), std::end(kCopies), function) != std::end(kCopies) || argument == "indices" ||
         argument == "scalars";
}

// A view is made of the description of its argument alone.
bool touches_memory(const c10::FunctionSchema& schema) {
  const auto writes = [](const c10::Argument& of) { return of.alias_info() != nullptr && of.alias_info()->isWrite(); };
  const auto is_view = [&](const c10::Argument& of) { return of.alias_info() != nullptr && !writes(of); };
  return schema.returns().empty() || !std::all_of(schema.returns().begin(), schema.returns().end(), is_view) ||
         std::any_of(schema.arguments().begin(), schema.arguments().end(), writes);
}

}  // namespace

void run_on_cpu(const c10::OperatorHandle& op, const c10::OperatorHandle& kernel, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = kernel.schema();
  const std::string& name = op.schema().name();
  const size_t first = stack->size() - schema.arguments().size();
  Aliases aliases(name);
  c10::IValue* generator = nullptr;
  for (size_t i = 0; i < schema.arguments().size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    c10::IValue& value = (*stack)[first + i];
    if (is_generator(argument)) {
      generator = &value;
    } else {
      value = aliases.to_cpu(argument.name(), value, may_be_anywhere(name, argument.name()));
    }
  }
  const std::optional<c10::Device> device = aliases.result_device();
  if (generator != nullptr && device) *generator = take_generator(generator->toOptional<at::Generator>(), *device);
  if (touches_memory(schema)) wait_for_current_streams(aliases.devices());

  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  const c10::impl::ExcludeDispatchKeyGuard below_autocast(c10::autocast_dispatch_keyset);
  kernel.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  aliases.write_back();
  for (auto result = stack->end() - static_cast<std::ptrdiff_t>(schema.returns().size()); result != stack->end();
       ++result) {
    *result = aliases.to_npu(*result);
  }
}

}  // namespace hostcann
