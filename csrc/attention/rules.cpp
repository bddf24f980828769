// The rules in the order a reader of the CANN pages meets them: tensors, attributes, mask, what is not built.
#include "attention/rules.h"

#include <cmath>

#include "attention/pse.h"

namespace ascendspeed {
namespace {

std::string of(const char* name, const TensorInfo& tensor) {
  return std::string(name) + " " + shape_text(tensor.sizes) + " " + tensor.dtype_name;
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

Status check_attributes(const Attributes& a) {
  if (!std::isfinite(a.scale)) return invalid("scale=" + std::to_string(a.scale) + " is not finite");
  if (!(a.keep_prob > 0.0 && a.keep_prob <= 1.0)) {
    return invalid("keep_prob=" + std::to_string(a.keep_prob) + " is outside (0, 1]");
  }
  for (const Status& status :
       {check_in("inner_precise", a.inner_precise, 0, 2), check_in("sparse_mode", a.sparse_mode, 0, kPrefixCompressed),
        check_in("pse_type", a.pse_type, 0, 3)}) {
    if (!status.ok()) return status;
  }
  if (a.pse_type != 1 && !a.pse) return invalid("pse is None, pse_type=" + std::to_string(a.pse_type) + " needs it");
  if (a.padding_mask) return invalid("padding_mask: reserved by CANN, must be None");
  if (a.actual_seq_qlen) return invalid("actual_seq_qlen: only for input_layout TND");
  if (a.actual_seq_kvlen) return invalid("actual_seq_kvlen: only for input_layout TND");
  if (!a.softmax_layout.empty()) {
    return invalid("softmax_layout='" + a.softmax_layout + "': must be empty unless input_layout is TND");
  }
  return {};
}

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
  const bool accepted = per_batch || ((mode != kPrefix || g.batch == 1) && (two || broadcast));
  if (accepted) return {};
  const std::string b = std::to_string(g.batch), n = std::to_string(g.heads),
                    tail = std::to_string(g.q_len) + ", " + std::to_string(g.kv_len) + "]";
  return invalid(of("atten_mask", mask) + ": sparse_mode " + std::to_string(mode) + " takes [" + b + ", " + n + ", " +
                 tail + ", [" + b + ", 1, " + tail +
                 (mode == kPrefix && g.batch != 1 ? "" : ", [1, 1, " + tail + " or [" + tail));
}

Status check_band(const Attributes& a, const Geometry& g) {
  const Band band = band_of(a.sparse_mode, a.pre_tockens, a.next_tockens, g);
  // j - i runs over [-(Sq-1), Skv-1]; the band must meet it somewhere.
  const int64_t least = std::max(-band.before, -(g.q_len - 1)), most = std::min(band.after, g.kv_len - 1);
  if (least <= most) return {};
  return invalid("pre_tockens=" + std::to_string(a.pre_tockens) + ", next_tockens=" + std::to_string(a.next_tockens) +
                 ": the band of sparse_mode " + std::to_string(a.sparse_mode) +
                 " holds no position of Sq=" + std::to_string(g.q_len) + ", Skv=" + std::to_string(g.kv_len));
}

Status check_prefix(const Attributes& a, const Geometry& g) {
  constexpr int64_t kMaxPrefixBatch = 2048;
  if (!a.prefix) {
    if (a.sparse_mode == kPrefix) return {};  // the mask's content is what is applied
    return invalid("prefix is None, sparse_mode 6 needs one length per batch element");
  }
  if (static_cast<int64_t>(a.prefix->size()) != g.batch) {
    return invalid("prefix " + shape_text(*a.prefix) + " has " + std::to_string(a.prefix->size()) +
                   " entries, the batch has " + std::to_string(g.batch));
  }
  if (g.batch > kMaxPrefixBatch) {
    return invalid("prefix: batch " + std::to_string(g.batch) + " is above the limit of " +
                   std::to_string(kMaxPrefixBatch) + " that prefix has");
  }
  if (a.sparse_mode == kPrefix) return {};  // CANN only logs lengths out of range here: the mask is applied
  const int64_t least = std::max<int64_t>(0, g.kv_len - g.q_len);
  for (size_t b = 0; b < a.prefix->size(); ++b) {
    const int64_t length = (*a.prefix)[b];
    if (length < least || length > g.kv_len) {
      return invalid("prefix[" + std::to_string(b) + "]=" + std::to_string(length) + " is outside " +
                     std::to_string(least) + ".." + std::to_string(g.kv_len) + " for Sq=" + std::to_string(g.q_len) +
                     ", Skv=" + std::to_string(g.kv_len));
    }
  }
  return {};
}

Status check_mask(const Attributes& a, const Geometry& g) {
  if (!a.atten_mask) return {};  // no mask, no masking: mode, tokens and prefix are ignored, as CANN does
  const TensorInfo& mask = *a.atten_mask;
  if (mask.dtype != DType::kBool && mask.dtype != DType::kUInt8) {
    return invalid("atten_mask: dtype " + mask.dtype_name + " is not bool or uint8");
  }
  const int64_t mode = a.sparse_mode;
  const Status shape = takes_compressed_mask(mode) ? check_compressed_mask(mask, mode) : check_full_mask(mask, mode, g);
  if (!shape.ok()) return shape;
  if (g.output_is_empty() || g.kv_len == 0) return {};
  if (mode == kDefaultMask || mode == kBand) return check_band(a, g);
  if (mode == kPrefix || mode == kPrefixCompressed) return check_prefix(a, g);
  return {};
}

Status check_drop_mask(const Attributes& a, const Geometry& g) {
  if (!a.drop_mask) return {};
  const TensorInfo& mask = *a.drop_mask;
  if (mask.dtype != DType::kUInt8) return invalid("drop_mask: dtype " + mask.dtype_name + " is not uint8");
  int64_t bits = g.batch;
  for (int64_t size : {g.heads, g.q_len, g.kv_len}) {
    if (__builtin_mul_overflow(bits, size, &bits)) return invalid("drop_mask: B*N*Sq*Skv is beyond 2^63 probabilities");
  }
  const int64_t bytes = (bits + 7) / 8;
  if (mask.sizes.size() == 1 && mask.sizes[0] >= bytes) return {};
  return invalid(of("drop_mask", mask) + ": expected one dimension of at least " + std::to_string(bytes) +
                 " bytes, a bit for each of B*N*Sq*Skv=" + std::to_string(bits) + " probabilities");
}

Status check_slopes(const Attributes& a, const Geometry& g) {
  const TensorInfo& slopes = *a.pse;
  const std::string type = "pse_type " + std::to_string(a.pse_type);
  if (slopes.dtype != DType::kFloat32) return invalid(of("pse", slopes) + ": " + type + " takes float32 slopes");
  const bool accepted =
      slopes.sizes == std::vector<int64_t>{g.heads} || slopes.sizes == std::vector<int64_t>{g.batch, g.heads};
  if (!accepted) {
    return invalid(of("pse", slopes) + ": " + type + " takes slopes [" + std::to_string(g.heads) + "] or [" +
                   std::to_string(g.batch) + ", " + std::to_string(g.heads) + "]");
  }
  if (g.q_len != g.kv_len) {
    return invalid("pse: " + type + " needs as many query rows as keys, here Sq=" + std::to_string(g.q_len) +
                   ", Skv=" + std::to_string(g.kv_len));
  }
  return {};
}

Status check_pse(const Attributes& a, const TensorInfo& query, const Geometry& g) {
  if (!a.pse) return {};  // pse_type other than 1 was refused with the attributes
  if (is_generated(a.pse_type)) return check_slopes(a, g);
  const TensorInfo& pse = *a.pse;
  const std::string name = of("pse", pse);
  if (pse.dtype != query.dtype) return invalid(name + ": dtype differs from " + query.dtype_name + " of query");
  const auto& s = pse.sizes;
  const bool accepted = s.size() == 4 && (s[0] == 1 || s[0] == g.batch) && s[1] == g.heads && s[3] == g.kv_len &&
                        (s[2] == g.q_len || s[2] == 1 || s[2] == kPseCompressedRows);
  if (!accepted) {
    return invalid(name + ": expected [1 or " + std::to_string(g.batch) + ", " + std::to_string(g.heads) +
                   ", 1 or 1024 or " + std::to_string(g.q_len) + ", " + std::to_string(g.kv_len) + "]");
  }
  if (s[2] == g.q_len || s[2] == 1) return {};
  if (g.q_len < kPseCompressedRows || g.q_len != g.kv_len) {
    return invalid(name + ": 1024 rows stand for more than 1024 query rows and as many keys, here Sq=" +
                   std::to_string(g.q_len) + ", Skv=" + std::to_string(g.kv_len));
  }
  const bool causal = a.atten_mask && (a.sparse_mode == kDefaultMask || a.sparse_mode == kLeftUpCausal ||
                                       a.sparse_mode == kRightDownCausal);
  if (!causal) return invalid(name + ": 1024 rows need a causal atten_mask with sparse_mode 0, 2 or 3");
  return {};
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

Status check_stats(const char* name, const OptionalTensor& stats, const Geometry& g) {
  if (!stats) return null_pointer(std::string(name) + " is None, the backward needs the forward's");
  const std::vector<int64_t> expected = {g.batch, g.heads, g.q_len, 8};
  if (stats->sizes != expected) return invalid(of(name, *stats) + ": expected " + shape_text(expected));
  if (stats->dtype != DType::kFloat32) return invalid(of(name, *stats) + ": expected float32");
  return {};
}

Status check_output_like(const char* name, const TensorInfo& tensor, const TensorInfo& query, Layout layout,
                         const Geometry& g) {
  std::array<int64_t, 4> shape;
  const int rank = layout_shape(layout, g.batch, g.heads, g.q_len, g.v_dim, &shape);
  const std::vector<int64_t> expected(shape.begin(), shape.begin() + rank);
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
  if (Status s = check_attributes(a); !s.ok()) return s;
  if (Status s = check_mask(a, resolved->geometry); !s.ok()) return s;
  if (Status s = check_drop_mask(a, resolved->geometry); !s.ok()) return s;
  if (Status s = check_pse(a, query, resolved->geometry); !s.ok()) return s;
  return check_sink(a, query, resolved->geometry);
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

Status check_forward(const ForwardProblem& p, Resolved* resolved) {
  return check_common(p.query, p.key, p.value, p.attributes, resolved);
}

Status check_backward(const BackwardProblem& p, Resolved* resolved) {
  if (Status s = check_common(p.query, p.key, p.value, p.attributes, resolved); !s.ok()) return s;
  const Geometry& g = resolved->geometry;
  if (Status s = check_output_like("dy", p.dy, p.query, resolved->layout, g); !s.ok()) return s;
  if (Status s = check_stats("softmax_max", p.softmax_max, g); !s.ok()) return s;
  if (Status s = check_stats("softmax_sum", p.softmax_sum, g); !s.ok()) return s;
  if (!p.attention_in) return null_pointer("attention_in is None, the backward needs the forward's output");
  if (p.softmax_in && !p.softmax_in->sizes.empty()) {
    int64_t elements = 1;
    for (int64_t size : p.softmax_in->sizes) elements *= size;
    if (elements != 0) return invalid(of("softmax_in", *p.softmax_in) + ": reserved by CANN, must be None or empty");
  }
  return check_output_like("attention_in", *p.attention_in, p.query, resolved->layout, g);
}

}  // namespace ascendspeed
