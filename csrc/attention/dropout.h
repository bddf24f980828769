// Dropout: which probability is kept, as a bit of the caller's mask or as a number of a counter-based generator.
//
// Probabilities are numbered e = ((b * N + n) * Sq + i) * Skv + j whatever the layout. A mask holds bit e at bit e % 8
// of byte e / 8, 1 = kept. Without a mask, e is kept when word e % 4 of Philox4x32-10 at counter {e / 4, offset} under
// key `seed` is at most `most`: any tile can be made anywhere, in any order, by any number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace ascendspeed {

struct Dropout {
  bool active = false;
  float keep_factor = 1.0f;       // 1 / keep_prob
  const uint8_t* bits = nullptr;  // packed mask; nullptr: generated
  uint64_t seed = 0, offset = 0;
  uint32_t most = 0;  // largest word that is kept
};

// Words 0 .. ceil(keep_prob * 2^32) - 1 are kept: the probability is exact to 2^-32. keep_prob is in (0, 1].
inline uint32_t most_of_keep_prob(double keep_prob) {
  return static_cast<uint32_t>(std::min(std::ceil(keep_prob * 0x1p32), 0x1p32) - 1.0);
}

// Bytes of the mask of `elements` probabilities: whole blocks of 128 bits, as CANN allocates them.
inline int64_t drop_mask_bytes(int64_t elements) { return (elements / 128 + (elements % 128 != 0)) * 16; }

}  // namespace ascendspeed
