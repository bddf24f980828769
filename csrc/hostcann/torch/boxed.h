// An operator of ATen on npu tensors, by ATen's CPU kernel.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace hostcann {

// Runs the CPU kernel of `kernel`, which takes what is on the stack, on behalf of `op`, whose results it leaves there.
void run_on_cpu(const c10::OperatorHandle& op, const c10::OperatorHandle& kernel, torch::jit::Stack* stack);

}  // namespace hostcann
