// Random numbers: an npu generator is a seed and an offset, as Philox has them. Each call draws from a CPU generator
// that the two determine, and moves the offset on; so the state that torch_npu saves and restores replays a call.
#pragma once

#include <ATen/core/Generator.h>
#include <c10/core/Device.h>

#include <optional>

namespace hostcann {

// A CPU generator for one call. `generator` is the caller's, of the npu; without one, the default of `device`.
at::Generator take_generator(const std::optional<at::Generator>& generator, c10::Device device);

}  // namespace hostcann
