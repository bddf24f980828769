// ascendspeed._npu: importing it needs torch_npu; ascendspeed._C does so in the first call with an NPU tensor.
#include <pybind11/pybind11.h>

#include "npu/flash_attention_npu.h"
#include "torch/npu_kernels.h"

namespace py = pybind11;

PYBIND11_MODULE(_npu, m) {
  static constexpr ascendspeed::NpuKernels kKernels{ascendspeed::npu::forward, ascendspeed::npu::backward,
                                                    ascendspeed::npu::dropout_gen_mask};
  m.doc() = "The NPU kernels of torch.ops.ascendspeed.";
  m.attr("kernels") = py::capsule(&kKernels, ascendspeed::kNpuKernels);
}
