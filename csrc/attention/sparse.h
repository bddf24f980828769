// sparse_mode: which keys a query row may see.
//
// In every mode the keys left visible by the mode itself are one interval per row, and both ends grow with the
// row. That is what lets kernels skip whole tiles. Modes 0, 1 and 5 additionally apply the caller's mask; in the
// others, which take a compressed mask, the mode alone decides. Rows and keys count from 0 in each sequence;
// off = kv_len - q_len of the sequence.
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/layout.h"

namespace ascendspeed {

enum SparseMode : int64_t {
  kDefaultMask = 0,       // the mask, inside the band i - pre <= j <= i + next
  kAllMask = 1,           // the mask
  kLeftUpCausal = 2,      // j <= i
  kRightDownCausal = 3,   // j <= i + off
  kBand = 4,              // i + off - pre <= j <= i + off + next
  kPrefix = 5,            // the mask; its documented content is that of mode 6
  kPrefixCompressed = 6,  // j < prefix[b] or j <= i + off
  // TND only, for a long sequence whose query rows were split among devices; a batch of one sequence is mode 4.
  kRightDownBandLast = 7,  // the last sequence with rows: mode 4; the others: mode 3
  kLeftUpBandFirst = 8     // the first sequence with rows: mode 4; the others: mode 2
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

// True when the caller's mask must be [2048, 2048] or [3072, 2048] whatever the lengths are.
inline bool takes_compressed_mask(int64_t mode) { return mode != kDefaultMask && mode != kAllMask && mode != kPrefix; }

// The sequence of modes 7 and 8 that has a band; -1 where no sequence has rows.
inline int64_t band_sequence(int64_t mode, const Geometry& g) {
  for (int64_t n = 0; n < g.batch; ++n) {
    const int64_t b = mode == kRightDownBandLast ? g.batch - 1 - n : n;
    if (g.sequence(b).q_len > 0) return b;
  }
  return -1;
}

// A packed batch of one sequence is configured, and judged, like mode 4 in modes 7 and 8.
inline int64_t effective_mode(int64_t mode, const Geometry& g) {
  return g.batch == 1 && (mode == kRightDownBandLast || mode == kLeftUpBandFirst) ? kBand : mode;
}

struct Sparsity {
  bool masked = false;  // false: no atten_mask was given, every key is visible and the mode is ignored
  int64_t mode = kDefaultMask;
  int64_t pre_tockens = 0, next_tockens = 0;
  const int64_t* prefix = nullptr;  // [batch], mode 6
  int64_t band = -1;                // band_sequence of modes 7 and 8

  bool mask_decides() const { return masked && !takes_compressed_mask(mode); }

  // The mode of one sequence: modes 7 and 8 mix others.
  int64_t mode_of(const Sequence& s, const Geometry& g) const {
    const int64_t whole = effective_mode(mode, g);
    if (whole != kRightDownBandLast && whole != kLeftUpBandFirst) return whole;
    if (s.index == band) return kBand;
    return whole == kRightDownBandLast ? kRightDownCausal : kLeftUpCausal;
  }
};

// Tokens beyond any length mean "no limit"; clamping keeps i + tokens far from overflow.
constexpr int64_t kNoLimit = int64_t{1} << 40;
inline int64_t clamp_tokens(int64_t tokens) { return std::clamp(tokens, -kNoLimit, kNoLimit); }

// The band of modes 0 and 4 in left-up coordinates: i - before <= j <= i + after.
struct Band {
  int64_t before, after;
};
inline Band band_of(int64_t mode, int64_t pre_tockens, int64_t next_tockens, const Sequence& s) {
  const int64_t off = mode == kBand ? s.kv_len - s.q_len : 0;
  return {clamp_tokens(pre_tockens) - off, clamp_tokens(next_tockens) + off};
}

// The keys that rows of one sequence may see as far as the mode is concerned: a band, and all keys before `prefix`.
class Visibility {
 public:
  Visibility(const Sparsity& sparsity, const Geometry& g, const Sequence& s) : kv_len_(s.kv_len) {
    if (!sparsity.masked) return;
    const int64_t off = s.kv_len - s.q_len, mode = sparsity.mode_of(s, g);
    switch (mode) {
      case kLeftUpCausal:
        band_.after = 0;
        break;
      case kRightDownCausal:
        band_.after = off;
        break;
      case kPrefixCompressed:
        band_.after = off;
        prefix_ = sparsity.prefix[s.index];
        break;
      case kDefaultMask:
      case kBand:
        band_ = band_of(mode, sparsity.pre_tockens, sparsity.next_tockens, s);
        break;
      default:
        break;  // modes 1 and 5: the mask alone
    }
  }

  // Of row `i`, clamped to [0, kv_len].
  Interval row(int64_t i) const {
    return {std::clamp<int64_t>(i - band_.before, 0, kv_len_),
            std::clamp<int64_t>(std::max(prefix_, i + band_.after + 1), 0, kv_len_)};
  }
  // The smallest interval that holds the visible keys of rows [first, last).
  Interval rows(int64_t first, int64_t last) const { return {row(first).begin, row(last - 1).end}; }

 private:
  int64_t kv_len_, prefix_ = 0;
  Band band_{kNoLimit, kNoLimit};
};

}  // namespace ascendspeed
