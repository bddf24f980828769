// What atten_mask must look like in each sparse mode, and the tokens and prefix that go with it.
#include <algorithm>

#include "attention/rule_parts.h"
#include "attention/sparse.h"

namespace ascendspeed {
namespace {

Status check_compressed_mask(const TensorInfo& mask, int64_t mode) {
  const int64_t rows = mode == kPrefixCompressed ? kCompressedPrefixRows : kCompressedRows;
  if (mask.sizes == std::vector<int64_t>{rows, kCompressedColumns}) return {};
  return invalid(of("atten_mask", mask) + ": sparse_mode " + std::to_string(mode) + " takes the compressed mask [" +
                 std::to_string(rows) + ", " + std::to_string(kCompressedColumns) + "]");
}

Status check_full_mask(const TensorInfo& mask, int64_t mode, const Geometry& g) {
  const auto& s = mask.sizes;
  const std::vector<int64_t> plane = {g.q_len, g.kv_len};
  const bool plane_matches = s.size() >= 2 && std::vector<int64_t>(s.end() - 2, s.end()) == plane;
  const bool two = s.size() == 2 && plane_matches;
  const bool per_batch = s.size() == 4 && plane_matches && s[0] == g.batch && (s[1] == 1 || s[1] == g.heads);
  const bool broadcast = s.size() == 4 && plane_matches && s[0] == 1 && s[1] == 1;
  // Mode 5 differs per batch element, so a mask shared by several cannot be meant.
  const bool dense = per_batch || ((mode != kPrefix || g.batch == 1) && (two || broadcast));
  if (g.sequences == nullptr ? dense : two) return {};
  if (g.sequences != nullptr) {
    return invalid(of("atten_mask", mask) + ": sparse_mode " + std::to_string(mode) +
                   " takes the longest lengths of the packed batch, " + shape_text(plane));
  }
  const std::string b = std::to_string(g.batch), n = std::to_string(g.heads),
                    tail = std::to_string(g.q_len) + ", " + std::to_string(g.kv_len) + "]";
  return invalid(of("atten_mask", mask) + ": sparse_mode " + std::to_string(mode) + " takes [" + b + ", " + n + ", " +
                 tail + ", [" + b + ", 1, " + tail +
                 (mode == kPrefix && g.batch != 1 ? "" : ", [1, 1, " + tail + " or [" + tail));
}

std::string tokens_of(const Attributes& a) {
  return "pre_tockens=" + std::to_string(a.pre_tockens) + ", next_tockens=" + std::to_string(a.next_tockens);
}

Status check_band(const Attributes& a, int64_t mode, const Geometry& g, const Sequence& s) {
  const Band band = band_of(mode, a.pre_tockens, a.next_tockens, s);
  // j - i runs over [-(Sq-1), Skv-1]; the band must meet it somewhere.
  const int64_t least = std::max(-band.before, -(s.q_len - 1)), most = std::min(band.after, s.kv_len - 1);
  if (least <= most) return {};
  return invalid(tokens_of(a) + ": the band of sparse_mode " + std::to_string(a.sparse_mode) +
                 " holds no position of " + lengths_of(g, s));
}

Status check_right_down(const Attributes& a, const Geometry& g, const Sequence& s) {
  if (s.q_len <= s.kv_len) return {};
  return invalid("sparse_mode=" + std::to_string(a.sparse_mode) +
                 ": more query rows than keys, which packed sequences must not have here: " + lengths_of(g, s));
}

// Modes 7 and 8 continue a longer sequence of which the band sequence is a part.
Status check_split_batch(const Attributes& a, const Geometry& g) {
  const int64_t last_or_first = band_sequence(a.sparse_mode, g);
  return check_sequences(g, [&](const Sequence& s) -> Status {
    const bool right_down = a.sparse_mode == kRightDownBandLast;
    if (s.index != last_or_first) return right_down ? check_right_down(a, g, s) : Status{};
    const std::string band = std::string("sparse_mode ") + std::to_string(a.sparse_mode) + " with the band on " +
                             lengths_of(g, s) + " needs ";
    if (a.pre_tockens < s.kv_len) {
      return invalid("pre_tockens=" + std::to_string(a.pre_tockens) + ": " + band + "at least " +
                     std::to_string(s.kv_len));
    }
    const int64_t least = s.q_len - s.kv_len;
    if (a.next_tockens < least || (right_down && a.next_tockens > 0)) {
      return invalid("next_tockens=" + std::to_string(a.next_tockens) + ": " + band +
                     (right_down ? std::to_string(least) + "..0" : "at least " + std::to_string(least)));
    }
    return {};
  });
}

Status check_prefix(const Attributes& a, const Geometry& g) {
  const int64_t most = g.sequences == nullptr ? 2048 : 1024;
  if (!a.prefix) {
    if (a.sparse_mode == kPrefix) return {};  // the mask's content is what is applied
    return invalid("prefix is None, sparse_mode 6 needs one length per batch element");
  }
  if (static_cast<int64_t>(a.prefix->size()) != g.batch) {
    return invalid("prefix " + shape_text(*a.prefix) + " has " + std::to_string(a.prefix->size()) +
                   " entries, the batch has " + std::to_string(g.batch));
  }
  if (g.batch > most) {
    return invalid("prefix: batch " + std::to_string(g.batch) + " is above the limit of " + std::to_string(most) +
                   " that prefix has");
  }
  if (a.sparse_mode == kPrefix) return {};  // CANN only logs lengths out of range here: the mask is applied
  for (int64_t b = 0; b < g.batch; ++b) {
    const Sequence s = g.sequence(b);
    const int64_t length = (*a.prefix)[b], least = std::max<int64_t>(0, s.kv_len - s.q_len);
    if (!s.empty() && (length < least || length > s.kv_len)) {
      return invalid("prefix[" + std::to_string(b) + "]=" + std::to_string(length) + " is outside " +
                     std::to_string(least) + ".." + std::to_string(s.kv_len) + " for " + lengths_of(g, s));
    }
  }
  return {};
}

}  // namespace

Status check_mask(const Attributes& a, const Geometry& g) {
  if (!a.atten_mask) return {};  // no mask, no masking: mode, tokens and prefix are ignored, as CANN does
  const TensorInfo& mask = *a.atten_mask;
  if (mask.dtype != DType::kBool && mask.dtype != DType::kUInt8) {
    return invalid("atten_mask: dtype " + mask.dtype_name + " is not bool or uint8");
  }
  const Status shape = takes_compressed_mask(a.sparse_mode) ? check_compressed_mask(mask, a.sparse_mode)
                                                            : check_full_mask(mask, a.sparse_mode, g);
  if (!shape.ok()) return shape;
  if (g.output_is_empty() || g.kv_len == 0) return {};
  const int64_t mode = effective_mode(a.sparse_mode, g);
  switch (mode) {
    case kDefaultMask:
    case kBand:
      return check_sequences(g, [&](const Sequence& s) { return check_band(a, mode, g, s); });
    case kRightDownCausal:
      if (g.sequences == nullptr) return {};
      return check_sequences(g, [&](const Sequence& s) { return check_right_down(a, g, s); });
    case kPrefix:
    case kPrefixCompressed:
      return check_prefix(a, g);
    case kRightDownBandLast:
    case kLeftUpBandFirst:
      return check_split_batch(a, g);
    default:
      return {};
  }
}

}  // namespace ascendspeed
