#include "cpu/drop_mask.h"

#include <algorithm>
#include <array>
#include <memory>

#include "attention/dropout.h"
#include "cpu/microkernel.h"

namespace ascendspeed::cpu {

void generate_drop_mask(uint64_t seed, uint64_t offset, double keep_prob, int64_t numel, const Parallel& parallel,
                        uint8_t* bytes) {
  constexpr int64_t kBlock = 4096;  // probabilities, a whole number of bytes
  using Keep = std::array<uint8_t, kBlock>;
  const int64_t total = drop_mask_bytes(numel);
  const uint32_t most = most_of_keep_prob(keep_prob);
  const Microkernel& kernel = active_microkernel();
  const auto buffer = [](int) { return std::make_unique<Keep>(); };
  for_each_task(parallel, (total * 8 + kBlock - 1) / kBlock, buffer, [&](const auto& keep, int64_t block) {
    const int64_t first = block * kBlock;
    const int64_t count = std::clamp<int64_t>(numel - first, 0, kBlock);
    keep->fill(0);
    kernel.generate_keep(seed, offset, most, static_cast<uint64_t>(first), static_cast<int>(count), keep->data());
    for (int64_t byte = first / 8; byte < std::min((first + kBlock) / 8, total); ++byte) {
      uint8_t value = 0;
      for (int bit = 0; bit < 8; ++bit) value |= static_cast<uint8_t>((*keep)[byte * 8 - first + bit] << bit);
      bytes[byte] = value;
    }
  });
}

}  // namespace ascendspeed::cpu
