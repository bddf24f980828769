#include "attention/fill_params.h"

namespace ascendspeed {
namespace {

ConstView view_of(const TensorMemory& memory, Layout layout, int64_t head_dim) {
  return {memory.data, split_strides(layout, memory.strides.data(), head_dim)};
}

Pse pse_of(const TensorMemory& memory, const Attributes& a, const Resolved& resolved) {
  const Geometry& g = resolved.geometry;
  const bool packed = resolved.layout == Layout::kTND;
  const std::vector<int64_t>& sizes = a.pse->sizes;
  Pse pse;
  pse.data = memory.data;
  pse.dtype = a.pse->dtype;
  pse.type = a.pse_type;
  pse.planes = pse_planes(a, resolved, memory.strides);
  pse.shift = start_shift(a.q_start_idx, a.kv_start_idx);
  pse.shifts_first_only = a.atten_mask && effective_mode(a.sparse_mode, g) == kLeftUpBandFirst;
  pse.compressed = sizes.size() == 4 && sizes[2] == kPseCompressedRows && (packed || g.q_len > kPseCompressedRows);
  return pse;
}

// [Sq, Skv], or the same behind batch and head dimensions that may be 1.
MaskView mask_of(const TensorMemory& memory, const std::vector<int64_t>& sizes) {
  const auto stride = [&](size_t from_last) {
    if (sizes.size() < from_last || sizes[sizes.size() - from_last] == 1) return int64_t{0};
    return memory.strides[sizes.size() - from_last];
  };
  return {static_cast<const uint8_t*>(memory.data), stride(4), stride(3), stride(2), stride(1)};
}

}  // namespace

PsePlanes pse_planes(const Attributes& a, const Resolved& resolved, const std::vector<int64_t>& strides) {
  const std::vector<int64_t>& sizes = a.pse->sizes;
  const Geometry& g = resolved.geometry;
  const auto stride = [&](size_t dim) { return sizes[dim] == 1 ? 0 : strides[dim]; };
  PsePlanes planes;
  if (is_generated(a.pse_type)) {  // slopes are planes of one number
    planes.head = stride(sizes.size() - 1);
    planes.batch = sizes.size() == 2 ? stride(0) : 0;
  } else if (resolved.layout == Layout::kTND && sizes.size() == 1) {
    planes.packed = true;
    const bool has_rows = sizes[0] == g.heads * g.end().scores_before;
    planes.row = has_rows ? 1 : 0;  // the stride between rows is that of each plane
    planes.column = strides[0];
  } else {
    planes = {stride(0), stride(1), stride(2), stride(3), false};
  }
  return planes;
}

void fill_params(const TensorInfo& query, const Attributes& a, const Resolved& resolved, const InputMemory& memory,
                 AttentionParams* p) {
  const Geometry& g = resolved.geometry;
  const Layout layout = resolved.layout;
  p->geometry = g;
  p->dtype = query.dtype;
  p->scale = static_cast<float>(a.scale);
  p->query = view_of(memory.query, layout, g.qk_dim);
  p->key = view_of(memory.key, layout, g.qk_dim);
  p->value = view_of(memory.value, layout, g.v_dim);
  p->sparsity = {a.atten_mask.has_value(),
                 a.sparse_mode,
                 a.pre_tockens,
                 a.next_tockens,
                 a.prefix ? a.prefix->data() : nullptr,
                 band_sequence(a.sparse_mode, g)};
  p->stats_by_position = stats_follow_input(a.softmax_layout);
  if (a.pse) p->pse = pse_of(memory.pse, a, resolved);
  if (g.rope_dim > 0) {
    p->query_rope = view_of(memory.query_rope, layout, g.rope_dim);
    p->key_rope = view_of(memory.key_rope, layout, g.rope_dim);
  }
  p->sink = memory.sink;
  if (a.drop_mask || a.keep_prob < 1.0) {
    p->dropout = {true,          static_cast<float>(1.0 / a.keep_prob), memory.drop_mask, memory.seed,
                  memory.offset, most_of_keep_prob(a.keep_prob)};
  }
  if (p->sparsity.mask_decides()) p->mask = mask_of(memory.atten_mask, a.atten_mask->sizes);
}

}  // namespace ascendspeed
