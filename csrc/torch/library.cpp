// ascendspeed._C: importing it defines torch.ops.ascendspeed; its functions are what Python needs besides.
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Dtype.h>
#include <torch/library.h>

#include "attention/rules.h"
#include "cpu/microkernel.h"
#include "torch/direct_call.h"
#include "torch/schema.h"

namespace py = pybind11;

TORCH_LIBRARY(ascendspeed, m) {
  m.def(ascendspeed::forward_schema().c_str());
  m.def(ascendspeed::backward_schema().c_str());
  m.def("dropout_gen_mask(Tensor self, int numel, float keep_prob, int seed, int offset) -> Tensor");
}

namespace {

// A tensor argument arrives as (sizes, dtype, device): fake kernels know shapes, perhaps only by hints, and no data.
c10::IValue to_ivalue(const py::handle& argument, const std::string& name, ascendspeed::NamedDevices* devices) {
  if (argument.is_none()) return {};
  if (py::isinstance<py::bool_>(argument)) return argument.cast<bool>();
  if (py::isinstance<py::int_>(argument)) return argument.cast<int64_t>();
  if (py::isinstance<py::float_>(argument)) return argument.cast<double>();
  if (py::isinstance<py::str>(argument)) return argument.cast<std::string>();
  if (py::isinstance<py::list>(argument)) return argument.cast<std::vector<int64_t>>();
  const auto [sizes, dtype, device] = argument.cast<std::tuple<std::vector<int64_t>, py::object, std::string>>();
  if (!THPDtype_Check(dtype.ptr())) throw py::type_error("expected (sizes, torch.dtype, device)");
  devices->emplace_back(name, device);
  return at::Tensor(at::detail::empty_meta(sizes, reinterpret_cast<THPDtype*>(dtype.ptr())->scalar_type));
}

void raise_python(const ascendspeed::Status& status) {
  if (status.ok()) return;
  PyErr_SetString(PyExc_ValueError, status.message.c_str());
  throw py::error_already_set();
}

// Applies every rule of one operator to a call's arguments in schema order.
template <typename Pop, typename Rule>
void check(const char* op, const py::args& arguments, Pop pop, Rule rule) {
  const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(op, "");
  torch::jit::Stack stack;
  ascendspeed::NamedDevices devices;
  for (size_t i = 0; i < arguments.size(); ++i) {
    stack.push_back(to_ivalue(arguments[i], handle.schema().arguments()[i].name(), &devices));
  }
  raise_python(ascendspeed::check_devices(devices));
  ascendspeed::Resolved resolved;
  raise_python(rule(pop(&stack).problem(), &resolved));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Defines torch.ops.ascendspeed; see ascendspeed.ops.";
  m.def(
      "check_forward",
      [](const py::args& arguments) {
        check("ascendspeed::flash_attention_score", arguments, ascendspeed::pop_forward, ascendspeed::check_forward);
      },
      "Apply the rules of flash_attention_score to its arguments in schema order, tensors as (sizes, dtype, device).");
  m.def(
      "check_backward",
      [](const py::args& arguments) {
        check("ascendspeed::flash_attention_score_grad", arguments, ascendspeed::pop_backward,
              ascendspeed::check_backward);
      },
      "Apply the rules of flash_attention_score_grad likewise.");
  m.def(
      "check_dropout",
      [](int64_t numel, double keep_prob) { raise_python(ascendspeed::check_dropout_bits(numel, keep_prob)); },
      "Apply the rules of dropout_gen_mask to its arguments.");
  static PyMethodDef call_directly{"call_directly",
                                   reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(ascendspeed::call_directly)),
                                   METH_FASTCALL, "flash_attention_score by position; None where torch.ops must."};
  m.attr("call_directly") = py::reinterpret_steal<py::object>(PyCFunction_New(&call_directly, nullptr));
  m.def(
      "active_isa", [] { return std::string(ascendspeed::cpu::active_microkernel().name); },
      "Name of the instruction set the CPU kernels run on.");
  m.def(
      "multiplies_bfloat16", [] { return ascendspeed::cpu::active_microkernel().bfloat16 != nullptr; },
      "Whether the CPU kernels multiply bfloat16 as it is, instead of converting it to float32.");
  m.def(
      "spin",
      [](bool bfloat16, int64_t rounds) {
        const ascendspeed::cpu::Microkernel& kernel = ascendspeed::cpu::active_microkernel();
        const py::gil_scoped_release release;
        float sink;
        return (bfloat16 && kernel.bfloat16 != nullptr ? *kernel.bfloat16 : kernel.float32).spin(rounds, &sink);
      },
      "Run rounds of multiply-adds on registers in this thread; returns the floating-point operations done.");
}
