// flash_attention_score for Python without what torch.ops needs to parse arguments of every kind.
#pragma once

#include <pybind11/pybind11.h>  // for Python.h

namespace ascendspeed {

// Of METH_FASTCALL: the operator's arguments in schema order, all of them. Calls the dispatcher as torch.ops does and
// returns the outputs and an empty float32 tensor, CANN's fourth; None, and has done nothing, where an argument or the
// moment is one that only torch.ops understands: subclasses of Tensor, symbolic numbers, lists, modes that want to see
// the call, tracing.
PyObject* call_directly(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace ascendspeed
