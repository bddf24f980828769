// sparse_mode: which keys a query row may see.
//
// In every mode the keys left visible by the mode itself are one interval per row, and both ends grow with the
// row. That is what lets kernels skip whole tiles. Modes 0, 1 and 5 additionally apply the caller's mask; in the
// compressed modes (2, 3, 4, 6) the mode alone decides. Rows and keys count from 0; off = kv_len - q_len.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/layout.h"

namespace ascendspeed {

enum SparseMode : int64_t {
  kDefaultMask = 0,      // the mask, inside the band i - pre <= j <= i + next
  kAllMask = 1,          // the mask
  kLeftUpCausal = 2,     // j <= i
  kRightDownCausal = 3,  // j <= i + off
  kBand = 4,             // i + off - pre <= j <= i + off + next
  kPrefix = 5,           // the mask; its documented content is that of mode 6
  kPrefixCompressed = 6  // j < prefix[b] or j <= i + off
};

struct Interval {
  int64_t begin, end;  // keys begin <= j < end; empty when end <= begin
  bool empty() const { return end <= begin; }
  bool meets(const Interval& other) const { return begin < other.end && other.begin < end; }
};

// Rows and columns of the two documented compressed masks.
constexpr int64_t kCompressedRows = 2048;
constexpr int64_t kCompressedPrefixRows = 3072;
constexpr int64_t kCompressedColumns = 2048;

struct Sparsity {
  bool masked = false;  // false: no atten_mask was given, every key is visible and the mode is ignored
  int64_t mode = kDefaultMask;
  int64_t pre_tockens = 0, next_tockens = 0;
  const int64_t* prefix = nullptr;  // [batch], mode 6

  bool mask_decides() const { return masked && (mode == kDefaultMask || mode == kAllMask || mode == kPrefix); }
};

// True when the caller's mask must be [2048, 2048] or [3072, 2048] whatever the lengths are.
inline bool takes_compressed_mask(int64_t mode) {
  return mode == kLeftUpCausal || mode == kRightDownCausal || mode == kBand || mode == kPrefixCompressed;
}

// Tokens beyond any length mean "no limit"; clamping keeps i + tokens far from overflow.
inline int64_t clamp_tokens(int64_t tokens) {
  constexpr int64_t kFar = int64_t{1} << 40;
  return std::clamp(tokens, -kFar, kFar);
}

// The band of modes 0 and 4 in left-up coordinates: i - before <= j <= i + after.
struct Band {
  int64_t before, after;
};
inline Band band_of(int64_t mode, int64_t pre_tockens, int64_t next_tockens, const Geometry& g) {
  const int64_t off = mode == kBand ? g.kv_len - g.q_len : 0;
  return {clamp_tokens(pre_tockens) - off, clamp_tokens(next_tockens) + off};
}

// Keys that row `i` of batch `b` may see as far as the mode is concerned, clamped to [0, kv_len].
inline Interval visible_keys(const Sparsity& sparsity, const Geometry& g, int64_t b, int64_t i) {
  int64_t begin = 0, end = g.kv_len;
  if (sparsity.masked) {
    const int64_t off = g.kv_len - g.q_len;
    switch (sparsity.mode) {
      case kLeftUpCausal:
        end = i + 1;
        break;
      case kRightDownCausal:
        end = i + off + 1;
        break;
      case kPrefixCompressed:
        end = std::max(sparsity.prefix[b], i + off + 1);
        break;
      case kDefaultMask:
      case kBand: {
        const Band band = band_of(sparsity.mode, sparsity.pre_tockens, sparsity.next_tockens, g);
        begin = i - band.before;
        end = i + band.after + 1;
        break;
      }
      default:
        break;  // modes 1 and 5: the mask alone
    }
  }
  return {std::clamp<int64_t>(begin, 0, g.kv_len), std::clamp<int64_t>(end, 0, g.kv_len)};
}

// The smallest interval that holds the visible keys of rows [first, last).
inline Interval visible_keys_of_rows(const Sparsity& sparsity, const Geometry& g, int64_t b, int64_t first,
                                     int64_t last) {
  return {visible_keys(sparsity, g, b, first).begin, visible_keys(sparsity, g, b, last - 1).end};
}

}  // namespace ascendspeed
