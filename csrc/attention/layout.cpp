// Parsing input_layout and taking the sizes of the problem from tensor shapes.
#include "attention/layout.h"

#include <algorithm>
#include <cctype>

namespace ascendspeed {
namespace {

constexpr int64_t kMaxHeadDim = 768;
constexpr int64_t kMaxHeads = 256;
constexpr int64_t kMaxLength = 1 << 20;  // "1M" in the documentation
constexpr int64_t kMaxBatch = 2 << 20;   // "2M"

struct Names {
  const char* text;
  Layout layout;
  size_t rank;
};
constexpr Names kLayouts[] = {{"BSH", Layout::kBSH, 3},
                              {"SBH", Layout::kSBH, 3},
                              {"BSND", Layout::kBSND, 4},
                              {"BNSD", Layout::kBNSD, 4},
                              {"TND", Layout::kTND, 3}};

const Names& names_of(Layout layout) { return kLayouts[static_cast<int>(layout)]; }

bool heads_in_last_dim(Layout layout) { return layout == Layout::kBSH || layout == Layout::kSBH; }

// One tensor seen through its layout; `width` is H where heads lie in the last dimension, else D.
struct Shape {
  int64_t batch, length, heads, width;
};

Shape read_shape(Layout layout, const std::vector<int64_t>& s) {
  switch (layout) {
    case Layout::kBSH:
      return {s[0], s[1], -1, s[2]};
    case Layout::kSBH:
      return {s[1], s[0], -1, s[2]};
    case Layout::kBSND:
      return {s[0], s[1], s[2], s[3]};
    case Layout::kTND:
      return {1, s[0], s[1], s[2]};
    case Layout::kBNSD:
      break;
  }
  return {s[0], s[2], s[1], s[3]};
}

std::string of(const char* name, const TensorInfo& tensor, Layout layout) {
  return std::string(name) + " " + shape_text(tensor.sizes) + " (layout " + names_of(layout).text + ")";
}

Status check_range(const char* what, int64_t value, int64_t most) {
  if (value <= most) return {};
  return invalid(std::string(what) + "=" + std::to_string(value) + " is above the limit of " + std::to_string(most));
}

Status split_heads(Layout layout, int64_t head_num, const TensorInfo& query, const TensorInfo& key,
                   const TensorInfo& value, const Shape& q, const Shape& k, const Shape& v, Geometry* g) {
  g->heads = head_num;
  if (!heads_in_last_dim(layout)) {
    if (q.heads != head_num) {
      return invalid("head_num=" + std::to_string(head_num) + " is not the head count " + std::to_string(q.heads) +
                     " of " + of("query", query, layout));
    }
    if (k.heads != v.heads) {
      return invalid("value: head count " + std::to_string(v.heads) + " of " + of("value", value, layout) +
                     " differs from " + std::to_string(k.heads) + " of " + of("key", key, layout));
    }
    g->kv_heads = k.heads;
    g->qk_dim = q.width;
    g->v_dim = v.width;
    if (k.width != q.width) {
      return invalid("key: head size " + std::to_string(k.width) + " of " + of("key", key, layout) + " differs from " +
                     std::to_string(q.width) + " of " + of("query", query, layout));
    }
    return {};
  }
  if (q.width % head_num != 0) {
    return invalid("head_num=" + std::to_string(head_num) + " does not divide H=" + std::to_string(q.width) + " of " +
                   of("query", query, layout));
  }
  g->qk_dim = q.width / head_num;
  if (g->qk_dim == 0) {
    if (k.width != 0) {
      return invalid("key: H=" + std::to_string(k.width) + " of " + of("key", key, layout) +
                     " while query has heads of size 0");
    }
    return {};  // Nkv cannot be told and is not needed: there is nothing to attend to
  }
  if (k.width % g->qk_dim != 0) {
    return invalid("key: H=" + std::to_string(k.width) + " of " + of("key", key, layout) +
                   " is not a multiple of the head size " + std::to_string(g->qk_dim) + " of " +
                   of("query", query, layout) + " with head_num=" + std::to_string(head_num));
  }
  g->kv_heads = k.width / g->qk_dim;
  if (g->kv_heads == 0) return {};
  if (v.width % g->kv_heads != 0) {
    return invalid("value: H=" + std::to_string(v.width) + " of " + of("value", value, layout) +
                   " is not a multiple of the " + std::to_string(g->kv_heads) + " heads of " + of("key", key, layout));
  }
  g->v_dim = v.width / g->kv_heads;
  return {};
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  return text + "]";
}

const char* layout_name(Layout layout) { return names_of(layout).text; }

Status parse_layout(const std::string& text, Layout* layout) {
  std::string upper = text;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  for (const Names& entry : kLayouts) {
    if (upper == entry.text) {
      *layout = entry.layout;
      return {};
    }
  }
  return invalid("input_layout='" + text + "' is not one of BSH, SBH, BSND, BNSD, TND");
}

Status deduce_geometry(Layout layout, int64_t head_num, const TensorInfo& query, const TensorInfo& key,
                       const TensorInfo& value, Geometry* g) {
  if (head_num <= 0) return invalid("head_num=" + std::to_string(head_num) + " must be positive");
  const struct {
    const char* name;
    const TensorInfo* tensor;
  } inputs[] = {{"query", &query}, {"key", &key}, {"value", &value}};
  for (const auto& [name, tensor] : inputs) {
    if (tensor->sizes.size() != names_of(layout).rank) {
      return invalid(of(name, *tensor, layout) + " has rank " + std::to_string(tensor->sizes.size()) +
                     ", the layout has rank " + std::to_string(names_of(layout).rank));
    }
  }
  for (const auto& [name, tensor] : inputs) {
    if (std::any_of(tensor->sizes.begin(), tensor->sizes.end(), [](int64_t size) { return size < 0; })) {
      return invalid(of(name, *tensor, layout) + " has a negative size");
    }
  }
  const Shape q = read_shape(layout, query.sizes), k = read_shape(layout, key.sizes),
              v = read_shape(layout, value.sizes);
  if (k.batch != q.batch || v.batch != q.batch) {
    const bool key_differs = k.batch != q.batch;
    return invalid(std::string(key_differs ? "key" : "value") + ": batch " +
                   std::to_string(key_differs ? k.batch : v.batch) + " of " +
                   (key_differs ? of("key", key, layout) : of("value", value, layout)) + " differs from " +
                   std::to_string(q.batch) + " of " + of("query", query, layout));
  }
  if (v.length != k.length) {
    return invalid("value: length " + std::to_string(v.length) + " of " + of("value", value, layout) +
                   " differs from " + std::to_string(k.length) + " of " + of("key", key, layout));
  }
  g->batch = q.batch;
  g->q_len = g->q_total = q.length;
  g->kv_len = g->kv_total = k.length;
  if (Status status = split_heads(layout, head_num, query, key, value, q, k, v, g); !status.ok()) return status;
  if (g->kv_heads != 0 && g->heads % g->kv_heads != 0) {
    return invalid("head_num=" + std::to_string(head_num) + " is not a multiple of the " + std::to_string(g->kv_heads) +
                   " heads of " + of("key", key, layout));
  }
  if (g->v_dim > g->qk_dim) {
    return invalid("value: head size " + std::to_string(g->v_dim) + " is above the head size " +
                   std::to_string(g->qk_dim) + " of query and key");
  }
  for (const Status& status :
       {check_range("head size of query", g->qk_dim, kMaxHeadDim), check_range("head_num", g->heads, kMaxHeads),
        check_range("length of query", g->q_len, kMaxLength), check_range("length of key", g->kv_len, kMaxLength),
        check_range("batch of query", g->batch, kMaxBatch)}) {
    if (!status.ok()) return status;
  }
  return {};
}

Strides split_strides(Layout layout, const int64_t* s, int64_t head_dim) {
  switch (layout) {
    case Layout::kBSH:
      return {s[0], head_dim * s[2], s[1], s[2]};
    case Layout::kSBH:
      return {s[1], head_dim * s[2], s[0], s[2]};
    case Layout::kBSND:
      return {s[0], s[2], s[1], s[3]};
    case Layout::kTND:
      return {0, s[1], s[0], s[2]};
    case Layout::kBNSD:
      break;
  }
  return {s[0], s[1], s[2], s[3]};
}

std::vector<int64_t> layout_shape(Layout layout, const Geometry& g, int64_t head_dim) {
  switch (layout) {
    case Layout::kBSH:
      return {g.batch, g.q_total, g.heads * head_dim};
    case Layout::kSBH:
      return {g.q_total, g.batch, g.heads * head_dim};
    case Layout::kBSND:
      return {g.batch, g.q_total, g.heads, head_dim};
    case Layout::kTND:
      return {g.q_total, g.heads, head_dim};
    case Layout::kBNSD:
      break;
  }
  return {g.batch, g.heads, g.q_total, head_dim};
}

std::vector<int64_t> stats_shape(Layout layout, const Geometry& g) {
  if (layout == Layout::kTND) return {g.q_total, g.heads, kStatLanes};
  return {g.batch, g.heads, g.q_total, kStatLanes};
}

}  // namespace ascendspeed
