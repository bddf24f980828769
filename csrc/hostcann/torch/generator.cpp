#include "hostcann/torch/generator.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <mutex>

namespace hostcann {
namespace {

// The finaliser of SplitMix64 over both numbers: neighbouring offsets give unrelated seeds.
uint64_t mixed(uint64_t seed, uint64_t offset) {
  uint64_t bits = seed + 0x9E3779B97F4A7C15ull * (offset + 1);
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
  return bits ^ (bits >> 31);
}

}  // namespace

at::Generator take_generator(const std::optional<at::Generator>& given, c10::Device device) {
  at::Generator generator = given && given->defined() ? *given : at::globalContext().defaultGenerator(device);
  TORCH_CHECK(generator.device().type() == device.type(), "Expected a '", device.type(),
              "' device type for generator but found '", generator.device().type(), "'");
  constexpr uint64_t kStep = 4;  // the smallest that torch_npu's generators accept
  const std::lock_guard lock(generator.mutex());
  const uint64_t offset = generator.get_offset();
  generator.set_offset(offset + kStep);
  return at::detail::createCPUGenerator(mixed(generator.current_seed(), offset));
}

}  // namespace hostcann
