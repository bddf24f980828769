// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011), a vector of
// counters at a time. Part of microkernel_impl.h; see vector.h for why everything is in an unnamed namespace.
#pragma once

#include "cpu/vector.h"

namespace ascendspeed::cpu {
namespace {

typedef uint64_t WideVec __attribute__((vector_size(2 * ASCENDSPEED_VECTOR_BYTES)));

struct Words {
  UintVec x[4];
};

inline void multiply(UintVec a, uint32_t b, UintVec* high, UintVec* low) {
  const WideVec product = __builtin_convertvector(a, WideVec) * static_cast<uint64_t>(b);
  *high = __builtin_convertvector(product >> 32, UintVec);
  *low = __builtin_convertvector(product, UintVec);
}

// Counters {first + lane, offset} under key `seed`, low word first.
inline Words philox(uint64_t first, uint64_t offset, uint64_t seed) {
  WideVec counter;
  for (int lane = 0; lane < kWidth; ++lane) counter[lane] = first + lane;
  Words w;
  w.x[0] = __builtin_convertvector(counter, UintVec);
  w.x[1] = __builtin_convertvector(counter >> 32, UintVec);
  w.x[2] = static_cast<uint32_t>(offset) - UintVec{};
  w.x[3] = static_cast<uint32_t>(offset >> 32) - UintVec{};
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    UintVec high0, low0, high1, low1;
    multiply(w.x[0], 0xD2511F53u, &high0, &low0);
    multiply(w.x[2], 0xCD9E8D57u, &high1, &low1);
    w = {{high1 ^ w.x[1] ^ key0, low1, high0 ^ w.x[3] ^ key1, low0}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return w;
}

void generate_keep(uint64_t seed, uint64_t offset, uint32_t most, uint64_t first, int columns, uint8_t* keep) {
  constexpr int kBlock = 4 * kWidth;  // probabilities of one vector of counters
  uint64_t element = first / kBlock * kBlock;
  for (int c = -static_cast<int>(first - element); c < columns; c += kBlock, element += kBlock) {
    const Words words = philox(element / 4, offset, seed);
    for (int word = 0; word < 4; ++word) {
      const IntVec kept = words.x[word] <= most;
      for (int lane = 0; lane < kWidth; ++lane) {
        const int column = c + 4 * lane + word;
        if (column >= 0 && column < columns) keep[column] = kept[lane] != 0;
      }
    }
  }
}

}  // namespace
}  // namespace ascendspeed::cpu
