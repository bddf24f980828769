// torch.ops converts arguments by trying what each might be, which takes longer than a problem of a few tokens. Nearly
// all calls have plain tensors, numbers, strings and None, recognised here by their exact type.
#include "torch/direct_call.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/utils/object_ptr.h>
#include <torch/csrc/utils/pybind.h>

namespace ascendspeed {
namespace {

using c10::TypeKind;

struct Parameter {
  explicit Parameter(const c10::Type& type) : kind(type.kind()), optional(kind == TypeKind::OptionalType) {
    if (optional) kind = type.castRaw<c10::OptionalType>()->getElementType()->kind();
  }
  TypeKind kind;
  bool optional;
};

struct Operator {
  explicit Operator(const char* name) : handle(c10::Dispatcher::singleton().findSchemaOrThrow(name, "")) {
    for (const c10::Argument& argument : handle.schema().arguments()) parameters.emplace_back(*argument.type());
  }
  c10::OperatorHandle handle;
  std::vector<Parameter> parameters;
};

// False where `object` is not exactly what the parameter takes.
bool convert(PyObject* object, const Parameter& parameter, c10::IValue* value) {
  if (parameter.optional && object == Py_None) return true;
  switch (parameter.kind) {
    case TypeKind::TensorType:
      if (!THPVariable_CheckExact(object)) return false;
      *value = THPVariable_Unpack(object);
      return true;
    case TypeKind::IntType: {
      if (!PyLong_CheckExact(object)) return false;
      int overflow;
      *value = static_cast<int64_t>(PyLong_AsLongLongAndOverflow(object, &overflow));
      return overflow == 0;
    }
    case TypeKind::FloatType:
      if (!PyFloat_CheckExact(object)) return false;
      *value = PyFloat_AS_DOUBLE(object);
      return true;
    case TypeKind::BoolType:
      if (!PyBool_Check(object)) return false;
      *value = object == Py_True;
      return true;
    case TypeKind::StringType: {
      if (!PyUnicode_CheckExact(object)) return false;
      Py_ssize_t length;
      const char* text = PyUnicode_AsUTF8AndSize(object, &length);
      if (text == nullptr) PyErr_Clear();  // surrogates: torch.ops refuses them in its own words
      if (text != nullptr) *value = std::string(text, static_cast<size_t>(length));
      return text != nullptr;
    }
    default:
      return false;
  }
}

}  // namespace

PyObject* call_directly(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  static const Operator op("ascendspeed::flash_attention_score");
  if (at::impl::torch_function_mode_enabled() || torch::jit::tracer::isTracing()) Py_RETURN_NONE;
  if (static_cast<size_t>(count) != op.parameters.size()) Py_RETURN_NONE;
  torch::jit::Stack stack(op.parameters.size());
  for (size_t i = 0; i < stack.size(); ++i) {
    if (!convert(arguments[i], op.parameters[i], &stack[i])) Py_RETURN_NONE;
  }
  {
    const pybind11::gil_scoped_release release;
    op.handle.callBoxed(&stack);
  }
  const at::TensorOptions options = stack[0].toTensor().options().dtype(at::kFloat);
  stack.emplace_back(at::empty({0}, options));  // softmax_out, which takes Python 2 us
  THPObjectPtr outputs(PyTuple_New(static_cast<Py_ssize_t>(stack.size())));
  if (!outputs) throw python_error();
  for (size_t i = 0; i < stack.size(); ++i) {
    PyObject* output = THPVariable_Wrap(std::move(stack[i]).toTensor());
    if (output == nullptr) throw python_error();
    PyTuple_SET_ITEM(outputs.get(), static_cast<Py_ssize_t>(i), output);
  }
  return outputs.release();
  END_HANDLE_TH_ERRORS
}

}  // namespace ascendspeed
