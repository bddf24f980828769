// The gradient of flash_attention_score, whatever the device: what it saves, and its call of the other operator.
//
// In C++ because a call of few tokens would spend most of its time in Python else.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace ascendspeed {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using torch::jit::Stack;

constexpr size_t kFirstAttribute = 3;  // after query, key and value

// Places among the forward's arguments, found once: asking a schema takes as long as a small problem does.
struct Places {
  explicit Places(const c10::FunctionSchema& schema) {
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      is_tensor.push_back(schema.arguments()[i].type()->isSubtypeOf(*c10::OptionalType::ofTensor()));
    }
    size_t n = 0;
    for (const char* name : {"query", "key", "value", "pse", "sink", "query_rope", "key_rope"}) {
      differentiable[n++] = static_cast<size_t>(schema.argumentIndexWithName(name).value());
    }
  }
  static constexpr size_t kCount = 7, kPse = 3;
  std::array<size_t, kCount> differentiable;  // in the order of the gradients they get
  std::vector<bool> is_tensor;                // or None
};

const c10::OperatorHandle& score() {
  static const c10::OperatorHandle op =
      c10::Dispatcher::singleton().findSchemaOrThrow("ascendspeed::flash_attention_score", "");
  return op;
}

const Places& places() {
  static const Places result(score().schema());
  return result;
}

at::Tensor tensor_at(const Stack& stack, size_t i) { return stack[i].isTensor() ? stack[i].toTensor() : at::Tensor(); }

variable_list tensors_of(const Stack& stack) {
  variable_list tensors;
  for (const c10::IValue& value : stack) {
    if (value.isTensor() && value.toTensor().defined()) tensors.push_back(value.toTensor());
  }
  return tensors;
}

bool any_requires_grad(const Stack& stack) {
  return at::GradMode::is_enabled() && std::any_of(stack.begin(), stack.end(), [](const c10::IValue& value) {
           return value.isTensor() && value.toTensor().defined() && value.toTensor().requires_grad();
         });
}

void call_below(const c10::OperatorHandle& op, Stack* stack) {
  const at::AutoDispatchBelowADInplaceOrView guard;
  op.callBoxed(stack);
}

class Score : public torch::autograd::Function<Score> {
 public:
  // The list holds the differentiable arguments on the stack that are not None. Leaves the outputs on the stack and
  // returns the first, the only one that is differentiable.
  static at::Tensor forward(AutogradContext* ctx, at::TensorList, const c10::OperatorHandle* op, Stack* stack) {
    // Tensors go through save_for_backward, so that autograd notices one that is changed in place meanwhile.
    variable_list saved;
    std::vector<c10::IValue> values;
    for (size_t i = 0; i < stack->size(); ++i) {
      if (places().is_tensor[i]) {
        saved.push_back(tensor_at(*stack, i));
      } else {
        values.push_back((*stack)[i]);
      }
    }
    call_below(*op, stack);
    for (const c10::IValue& output : *stack) saved.push_back(output.toTensor());
    ctx->set_materialize_grads(false);
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["values"] = c10::ivalue::Tuple::create(std::move(values));
    return stack->front().toTensor();
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    static const c10::OperatorHandle grad =
        c10::Dispatcher::singleton().findSchemaOrThrow("ascendspeed::flash_attention_score_grad", "");
    constexpr size_t kOthers = 2;  // op and stack, which have no gradient
    const variable_list saved = ctx->get_saved_variables();
    const auto& values = ctx->saved_data["values"].toTupleRef().elements();
    auto tensor = saved.begin();
    auto value = values.begin();
    Stack arguments;
    arguments.reserve(places().is_tensor.size());
    for (const bool is_tensor : places().is_tensor) {
      if (is_tensor) {
        arguments.push_back(tensor->defined() ? c10::IValue(*tensor) : c10::IValue());
        ++tensor;
      } else {
        arguments.push_back(*value++);
      }
    }
    const at::Tensor &out = tensor[0], &max = tensor[1], &sum = tensor[2];

    // Inputs that are None were not handed over: which gradient is the next one's.
    std::vector<size_t> given;
    for (size_t n = 0; n < Places::kCount; ++n) {
      if (arguments[places().differentiable[n]].isTensor()) given.push_back(n);
    }
    variable_list result(given.size() + kOthers);
    if (!gradients[0].defined()) return result;
    const auto wants_dpse = [&] {
      const auto pse = std::find(given.begin(), given.end(), Places::kPse);
      return pse != given.end() && ctx->needs_input_grad(static_cast<size_t>(pse - given.begin()));
    };
    Stack stack(arguments.begin(), arguments.begin() + kFirstAttribute);
    torch::jit::push(stack, gradients[0], max, sum, c10::IValue(), out);
    stack.insert(stack.end(), arguments.begin() + kFirstAttribute, arguments.end());
    stack.emplace_back(wants_dpse());
    grad.callBoxed(&stack);
    for (size_t i = 0; i < given.size(); ++i) {
      if (ctx->needs_input_grad(i)) result[i] = stack[given[i]].toTensor();
    }
    return result;
  }
};

void refuse_tangents(const Stack& stack) {
  for (const c10::IValue& value : stack) {
    const bool has_tangent = value.isTensor() && value.toTensor().defined() && value.toTensor()._fw_grad(0).defined();
    TORCH_CHECK_NOT_IMPLEMENTED(!has_tangent, "flash_attention_score has no forward-mode derivative");
  }
}

void forward(const c10::OperatorHandle& op, Stack* stack) {
  refuse_tangents(*stack);
  if (!any_requires_grad(*stack)) return call_below(op, stack);
  variable_list inputs;
  for (const size_t place : places().differentiable) {
    if (tensor_at(*stack, place).defined()) inputs.push_back(tensor_at(*stack, place));
  }
  stack->front() = Score::apply(at::TensorList(inputs), &op, stack);
}

class ScoreGrad : public torch::autograd::Function<ScoreGrad> {
 public:
  static variable_list forward(AutogradContext*, at::TensorList, const c10::OperatorHandle* op, Stack* stack) {
    call_below(*op, stack);
    return tensors_of(*stack);
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        false, "flash_attention_score_grad has no gradient of its own: second derivatives are not built");
  }
};

void backward(const c10::OperatorHandle& op, Stack* stack) {
  if (!any_requires_grad(*stack)) return call_below(op, stack);
  Stack arguments = std::move(*stack);
  stack->clear();
  const variable_list inputs = tensors_of(arguments);
  for (at::Tensor& output : ScoreGrad::apply(at::TensorList(inputs), &op, &arguments)) {
    stack->emplace_back(std::move(output));
  }
}

}  // namespace
}  // namespace ascendspeed

TORCH_LIBRARY_IMPL(ascendspeed, Autograd, m) {
  m.impl("flash_attention_score", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::forward>());
  m.impl("flash_attention_score_grad", torch::CppFunction::makeFromBoxedFunction<&ascendspeed::backward>());
}
