// The rules in the order a reader of the CANN pages meets them: tensors, attributes, mask, dropout, shift, sink, rope.
#include "attention/rules.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "attention/rule_parts.h"
#include "attention/sequences.h"

namespace ascendspeed {
namespace {

Status check_given(std::initializer_list<std::pair<const char*, const OptionalTensor*>> tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (!*tensor) return null_pointer(std::string(name) + " is None, the operator needs it");
  }
  return {};
}

Status check_dtypes(const TensorInfo& query, const TensorInfo& key, const TensorInfo& value) {
  if (query.dtype != DType::kFloat32 && query.dtype != DType::kFloat16 && query.dtype != DType::kBFloat16) {
    return invalid("query: dtype " + query.dtype_name + " is not one of float16, bfloat16, float32");
  }
  const struct {
    const char* name;
    const TensorInfo* tensor;
  } others[] = {{"key", &key}, {"value", &value}};
  for (const auto& [name, tensor] : others) {
    if (tensor->dtype != query.dtype) {
      return invalid(std::string(name) + ": dtype " + tensor->dtype_name + " differs from " + query.dtype_name +
                     " of query");
    }
  }
  return {};
}

Status check_in(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return {};
  return invalid(std::string(name) + "=" + std::to_string(value) + " is outside " + std::to_string(least) + ".." +
                 std::to_string(most));
}

// Sparse modes run from 0 to 6 where the batch is a dimension and to 8 where it is packed, without 5.
Status check_mode(int64_t mode, bool packed) {
  if (packed && mode == kPrefix) {
    return invalid("sparse_mode=5: not for input_layout TND, whose prefix mode is 6");
  }
  return check_in("sparse_mode", mode, 0, packed ? kLeftUpBandFirst : kPrefixCompressed);
}

Status check_only_packed(const Attributes& a) {
  if (a.actual_seq_qlen)
    return invalid("actual_seq_qlen=" + shape_text(*a.actual_seq_qlen) + ": only for input_layout TND");
  if (a.actual_seq_kvlen)
    return invalid("actual_seq_kvlen=" + shape_text(*a.actual_seq_kvlen) + ": only for input_layout TND");
  if (!a.softmax_layout.empty()) {
    return invalid("softmax_layout='" + a.softmax_layout + "': must be empty unless input_layout is TND");
  }
  return {};
}

Status check_keep_prob(double keep_prob) {
  if (!(keep_prob > 0.0 && keep_prob <= 1.0)) {
    return invalid("keep_prob=" + number_text(keep_prob) + " is outside (0, 1]");
  }
  if (1.0 / keep_prob > FLT_MAX) {  // used in float32, like scale
    return invalid("keep_prob=" + number_text(keep_prob) + " is too small: its inverse is not finite in float32");
  }
  return {};
}

Status check_attributes(const Attributes& a, bool packed) {
  if (!(std::abs(a.scale) <= FLT_MAX)) return invalid("scale=" + number_text(a.scale) + " is not finite in float32");
  if (Status s = check_keep_prob(a.keep_prob); !s.ok()) return s;
  for (const Status& status : {check_in("inner_precise", a.inner_precise, 0, 2), check_mode(a.sparse_mode, packed),
                               check_in("pse_type", a.pse_type, 0, 3)}) {
    if (!status.ok()) return status;
  }
  if (a.pse_type != 1 && !a.pse) return invalid("pse is None, pse_type=" + std::to_string(a.pse_type) + " needs it");
  if (a.padding_mask) return invalid(of("padding_mask", *a.padding_mask) + ": reserved by CANN, must be None");
  if (!packed) return check_only_packed(a);
  if (!a.softmax_layout.empty() && !stats_follow_input(a.softmax_layout)) {
    return invalid("softmax_layout='" + a.softmax_layout + "' is not one of '', 'TND', 'same_as_input'");
  }
  return {};
}

// The number of probabilities, each of which has a bit; false where it is beyond 2^63.
bool count_probabilities(const Geometry& g, int64_t* count) {
  if (g.sequences != nullptr) {
    return !__builtin_mul_overflow(g.heads, g.end().scores_before, count);
  }
  *count = g.batch;
  for (int64_t size : {g.heads, g.q_len, g.kv_len}) {
    if (__builtin_mul_overflow(*count, size, count)) return false;
  }
  return true;
}

Status check_dropout(const Attributes& a, const Geometry& g) {
  if (!a.drop_mask && a.keep_prob == 1.0) return {};
  const char* name = a.drop_mask ? "drop_mask" : "keep_prob";
  int64_t bits;
  if (!count_probabilities(g, &bits)) {
    return invalid(std::string(name) + ": B*N*Sq*Skv of " + std::to_string(g.batch) + ", " + std::to_string(g.heads) +
                   ", " + std::to_string(g.q_len) + ", " + std::to_string(g.kv_len) +
                   " is beyond 2^63 probabilities, more than can be numbered");
  }
  if (!a.drop_mask) return {};
  const TensorInfo& mask = *a.drop_mask;
  if (mask.dtype != DType::kUInt8) return invalid("drop_mask: dtype " + mask.dtype_name + " is not uint8");
  const int64_t bytes = bits / 8 + (bits % 8 != 0);
  if (mask.sizes.size() == 1 && mask.sizes[0] >= bytes) return {};
  return invalid(of("drop_mask", mask) + ": expected one dimension of at least " + std::to_string(bytes) +
                 " bytes, a bit for each of " + (g.sequences == nullptr ? "B*N*Sq*Skv=" : "N*sum(Sq*Skv)=") +
                 std::to_string(bits) + " probabilities");
}

Status check_sink(const Attributes& a, const TensorInfo& query, const Geometry& g) {
  if (!a.sink || a.sink->sizes == std::vector<int64_t>{0}) return {};  // empty counts as absent
  const TensorInfo& sink = *a.sink;
  if (sink.dtype != DType::kFloat32) return invalid(of("sink", sink) + ": expected float32");
  if (sink.sizes != std::vector<int64_t>{g.heads}) {
    return invalid(of("sink", sink) + ": expected one logit per query head, [" + std::to_string(g.heads) + "]");
  }
  if (query.dtype == DType::kFloat32) return invalid("sink: query is float32, sinks need float16 or bfloat16");
  return {};
}

// What A2 and A3 have of rotary inputs beside query and key (MLA): bfloat16, packed and masked, and little else.
Status check_rope(const TensorInfo& query, const TensorInfo& key, const Attributes& a, Resolved* resolved) {
  if (!a.query_rope && !a.key_rope) return {};
  if (!a.query_rope) return null_pointer("query_rope is None, key_rope needs it");
  if (!a.key_rope) return null_pointer("key_rope is None, query_rope needs it");
  const struct {
    const char* name;
    const TensorInfo *rope, *beside;
    const char* beside_name;
  } pairs[] = {{"query_rope", &*a.query_rope, &query, "query"}, {"key_rope", &*a.key_rope, &key, "key"}};
  if (resolved->layout != Layout::kTND)
    return invalid(of("query_rope", *a.query_rope) + ": only for input_layout TND, here " + a.input_layout);
  for (const auto& [name, rope, beside, beside_name] : pairs) {
    if (rope->dtype != DType::kBFloat16 || beside->dtype != DType::kBFloat16) {
      return invalid(of(name, *rope) + ": must be bfloat16 like all tensors beside it, " + beside_name + " is " +
                     beside->dtype_name);
    }
    if (rope->sizes.size() != 3 || rope->sizes[0] != beside->sizes[0] || rope->sizes[1] != beside->sizes[1] ||
        rope->sizes[2] > beside->sizes[2]) {
      return invalid(of(name, *rope) + ": expected the shape " + shape_text(beside->sizes) + " of " + beside_name +
                     " with heads of at most its size");
    }
  }
  if (a.key_rope->sizes[2] != a.query_rope->sizes[2]) {
    return invalid(of("key_rope", *a.key_rope) + ": head size differs from " + std::to_string(a.query_rope->sizes[2]) +
                   " of query_rope");
  }
  if (!a.atten_mask) return invalid("atten_mask is None, query_rope needs one");
  if (a.sparse_mode == kPrefixCompressed) return invalid("sparse_mode=6: not with query_rope");
  if (a.pse) return invalid(of("pse", *a.pse) + ": must be None with query_rope");
  if (a.drop_mask) return invalid(of("drop_mask", *a.drop_mask) + ": must be None with query_rope");
  if (a.keep_prob != 1.0) return invalid("keep_prob=" + number_text(a.keep_prob) + " must be 1 with query_rope");
  resolved->geometry.rope_dim = a.query_rope->sizes[2];
  return {};
}

Status check_stats(const char* name, const OptionalTensor& stats, const Resolved& resolved) {
  if (!stats) return null_pointer(std::string(name) + " is None, the backward needs the forward's");
  const std::vector<int64_t> expected = stats_shape(resolved.layout, resolved.geometry);
  if (stats->sizes != expected) return invalid(of(name, *stats) + ": expected " + shape_text(expected));
  if (stats->dtype != DType::kFloat32) return invalid(of(name, *stats) + ": expected float32");
  return {};
}

Status check_output_like(const char* name, const TensorInfo& tensor, const TensorInfo& query,
                         const Resolved& resolved) {
  const std::vector<int64_t> expected = layout_shape(resolved.layout, resolved.geometry, resolved.geometry.v_dim);
  if (tensor.sizes != expected) return invalid(of(name, tensor) + ": expected " + shape_text(expected));
  if (tensor.dtype != query.dtype) {
    return invalid(std::string(name) + ": dtype " + tensor.dtype_name + " differs from " + query.dtype_name +
                   " of query");
  }
  return {};
}

Status check_common(const TensorInfo& query, const TensorInfo& key, const TensorInfo& value, const Attributes& a,
                    Resolved* resolved) {
  if (Status s = parse_layout(a.input_layout, &resolved->layout); !s.ok()) return s;
  if (Status s = check_dtypes(query, key, value); !s.ok()) return s;
  if (Status s = deduce_geometry(resolved->layout, a.head_num, query, key, value, &resolved->geometry); !s.ok()) {
    return s;
  }
  const bool packed = resolved->layout == Layout::kTND;
  if (Status s = check_attributes(a, packed); !s.ok()) return s;
  if (packed) {
    if (Status s = resolve_sequences(a, resolved); !s.ok()) return s;
  }
  const Geometry& g = resolved->geometry;
  if (Status s = check_mask(a, g); !s.ok()) return s;
  if (Status s = check_dropout(a, g); !s.ok()) return s;
  if (Status s = check_pse(a, query, g); !s.ok()) return s;
  if (Status s = check_sink(a, query, g); !s.ok()) return s;
  return check_rope(query, key, a, resolved);
}

}  // namespace

Status check_devices(const NamedDevices& devices) {
  for (const auto& [name, device] : devices) {
    if (device == devices.front().second) continue;
    return invalid(name + ": device " + device + " differs from " + devices.front().second + " of " +
                   devices.front().first);
  }
  return {};
}

Status check_dropout_bits(int64_t numel, double keep_prob) {
  if (numel < 0) return invalid("numel=" + std::to_string(numel) + " must not be negative");
  return check_keep_prob(keep_prob);
}

Status check_forward(const ForwardProblem& p, Resolved* resolved) {
  if (Status s = check_given({{"query", &p.query}, {"key", &p.key}, {"value", &p.value}}); !s.ok()) return s;
  return check_common(*p.query, *p.key, *p.value, p.attributes, resolved);
}

Status check_backward(const BackwardProblem& p, Resolved* resolved) {
  if (Status s = check_given({{"query", &p.query}, {"key", &p.key}, {"value", &p.value}, {"dy", &p.dy}}); !s.ok()) {
    return s;
  }
  if (Status s = check_common(*p.query, *p.key, *p.value, p.attributes, resolved); !s.ok()) return s;
  if (Status s = check_output_like("dy", *p.dy, *p.query, *resolved); !s.ok()) return s;
  if (Status s = check_stats("softmax_max", p.softmax_max, *resolved); !s.ok()) return s;
  if (Status s = check_stats("softmax_sum", p.softmax_sum, *resolved); !s.ok()) return s;
  if (!p.attention_in) return null_pointer("attention_in is None, the backward needs the forward's output");
  if (p.softmax_in && std::count(p.softmax_in->sizes.begin(), p.softmax_in->sizes.end(), 0) == 0) {
    return invalid(of("softmax_in", *p.softmax_in) + ": reserved by CANN, must be None or empty");
  }
  return check_output_like("attention_in", *p.attention_in, *p.query, *resolved);
}

}  // namespace ascendspeed
