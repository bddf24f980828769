// The forms of pse: a tensor for pse_type 0 and 1, slopes for 2 and 3, each with what a packed batch asks of them.
#include "attention/pse.h"
#include "attention/rule_parts.h"
#include "attention/sparse.h"

namespace ascendspeed {
namespace {

using Sizes = std::vector<int64_t>;

// A packed batch takes pse only for sequences that have rows and keys, and, where part of a longer sequence was cut off
// (modes 7 and 8), only where the cut leaves rows and keys at known distances.
Status check_packed(const Attributes& a, const Geometry& g) {
  for (int64_t b = 0; b < g.batch; ++b) {
    if (const Sequence s = g.sequence(b); s.empty()) {
      return invalid("pse: every sequence of a packed batch must have rows and keys, here " + lengths_of(g, s));
    }
  }
  const int64_t mode = a.atten_mask ? effective_mode(a.sparse_mode, g) : kDefaultMask;
  if (mode == kRightDownBandLast) return invalid(of("pse", *a.pse) + ": must be None in sparse_mode 7");
  if (mode != kLeftUpBandFirst) return {};
  const int64_t shift = start_shift(a.q_start_idx, a.kv_start_idx);
  return check_sequences(g, [&](const Sequence& s) -> Status {
    const int64_t distance = s.q_len - s.kv_len - (s.index == 0 ? shift : 0);
    if (distance == 0) return {};
    return invalid("pse: in sparse_mode 8 Sq - Skv" + std::string(s.index == 0 ? " + q_start_idx - kv_start_idx" : "") +
                   " must be 0, here " + std::to_string(distance) + " for " + lengths_of(g, s));
  });
}

Status check_square(const Attributes& a, const Geometry& g, const std::string& form) {
  const bool cut_first = a.atten_mask && effective_mode(a.sparse_mode, g) == kLeftUpBandFirst;  // see check_packed
  return check_sequences(g, [&](const Sequence& s) -> Status {
    if (s.q_len == s.kv_len || cut_first) return {};
    return invalid("pse: " + form + " needs as many query rows as keys, here " + lengths_of(g, s));
  });
}

Status check_slopes(const Attributes& a, const Geometry& g) {
  const TensorInfo& slopes = *a.pse;
  const std::string type = "pse_type " + std::to_string(a.pse_type);
  if (slopes.dtype != DType::kFloat32) return invalid(of("pse", slopes) + ": " + type + " takes float32 slopes");
  if (slopes.sizes != Sizes{g.heads} && slopes.sizes != Sizes{g.batch, g.heads}) {
    return invalid(of("pse", slopes) + ": " + type + " takes slopes [" + std::to_string(g.heads) + "] or [" +
                   std::to_string(g.batch) + ", " + std::to_string(g.heads) + "]");
  }
  return check_square(a, g, type);
}

// 1024 rows that stand for all, in a tensor that is known to have them.
Status check_compressed(const Attributes& a, const Geometry& g, const std::string& name) {
  const Status rows = check_sequences(g, [&](const Sequence& s) -> Status {
    if (s.q_len >= kPseCompressedRows && s.q_len == s.kv_len) return {};
    return invalid(name + ": 1024 rows stand for at least 1024 query rows and as many keys, here " + lengths_of(g, s));
  });
  if (!rows.ok()) return rows;
  const bool causal = a.atten_mask && (a.sparse_mode == kDefaultMask || a.sparse_mode == kLeftUpCausal ||
                                       a.sparse_mode == kRightDownCausal);
  if (!causal) return invalid(name + ": 1024 rows need a causal atten_mask with sparse_mode 0, 2 or 3");
  return {};
}

Status check_dense_tensor(const Attributes& a, const Geometry& g, const std::string& name) {
  const Sizes& s = a.pse->sizes;
  const bool accepted = s.size() == 4 && (s[0] == 1 || s[0] == g.batch) && s[1] == g.heads && s[3] == g.kv_len &&
                        (s[2] == g.q_len || s[2] == 1 || s[2] == kPseCompressedRows);
  if (!accepted) {
    return invalid(name + ": expected [1 or " + std::to_string(g.batch) + ", " + std::to_string(g.heads) +
                   ", 1 or 1024 or " + std::to_string(g.q_len) + ", " + std::to_string(g.kv_len) + "]");
  }
  if (s[2] == g.q_len || s[2] == 1) return {};
  return check_compressed(a, g, name);
}

Status check_packed_tensor(const Attributes& a, const Geometry& g, const std::string& name) {
  const Sizes& s = a.pse->sizes;
  if (s.size() == 4 && (s[0] == 1 || s[0] == g.batch) && s[1] == g.heads && s[2] == kPseCompressedRows &&
      s[3] == g.kv_len) {
    return check_compressed(a, g, name);
  }
  const int64_t scores = g.heads * g.end().scores_before, keys = g.heads * g.end().kv_begin;
  if (s == Sizes{scores} || s == Sizes{keys}) return {};
  return invalid(name + ": a packed batch takes [N*sum(Sq*Skv)]=[" + std::to_string(scores) + "], [N*sum(Skv)]=[" +
                 std::to_string(keys) + "] or [1 or " + std::to_string(g.batch) + ", " + std::to_string(g.heads) +
                 ", 1024, " + std::to_string(g.kv_len) + "]");
}

}  // namespace

Status check_pse(const Attributes& a, const TensorInfo& query, const Geometry& g) {
  if (!a.pse) return {};  // pse_type other than 1 was refused with the attributes
  if (g.sequences != nullptr) {
    if (Status status = check_packed(a, g); !status.ok()) return status;
  }
  if (is_generated(a.pse_type)) return check_slopes(a, g);
  const std::string name = of("pse", *a.pse);
  if (a.pse->dtype != query.dtype) return invalid(name + ": dtype differs from " + query.dtype_name + " of query");
  return g.sequences == nullptr ? check_dense_tensor(a, g, name) : check_packed_tensor(a, g, name);
}

}  // namespace ascendspeed
