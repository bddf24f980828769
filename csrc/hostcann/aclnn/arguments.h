// The arguments of every version of the operator's two calls, by the names the rules and docs/operator.md use.
//
// The C prototypes differ in which arguments they have and in their order; an argument that a version lacks keeps its
// default here, which is how the others express its absence.
#pragma once

#include <cstdint>
#include <optional>

#include "aclnn/acl_meta.h"

namespace hostcann {

// A pair of entry points.
struct Api {
  enum Layouts { kDense, kPacked, kAny };

  const char* name;  // of the second phase; the first one's ends in GetWorkspaceSize
  Layouts layouts = kDense;
  bool only_950 = false;       // not there on A2 and A3
  bool makes_dropout = false;  // keep_prob below 1 without a mask: generated, else no dropout
};

struct Arguments {
  const aclTensor *query = nullptr, *key = nullptr, *value = nullptr, *dy = nullptr;
  const aclTensor *pse = nullptr, *drop_mask = nullptr, *padding_mask = nullptr, *atten_mask = nullptr;
  const aclTensor *softmax_max = nullptr, *softmax_sum = nullptr;  // outputs of the forward
  const aclTensor *softmax_in = nullptr, *attention_in = nullptr;
  const aclTensor *sink = nullptr, *query_rope = nullptr, *key_rope = nullptr;
  const aclTensor *d_scale_q = nullptr, *d_scale_k = nullptr, *d_scale_v = nullptr;
  const aclTensor *d_scale_dy = nullptr, *d_scale_o = nullptr;
  const aclIntArray *prefix = nullptr, *actual_seq_qlen = nullptr, *actual_seq_kvlen = nullptr;
  const aclIntArray *q_start_idx = nullptr, *kv_start_idx = nullptr;
  double scale = 1.0, keep_prob = 1.0;
  int64_t pre_tockens = 0, next_tockens = 0, head_num = 0;
  const char* input_layout = nullptr;
  int64_t inner_precise = 0, sparse_mode = 0;
  std::optional<int64_t> pse_type = std::nullopt;
  const char* softmax_layout = nullptr;
  std::optional<int64_t> seed = std::nullopt, offset = std::nullopt, out_dtype = std::nullopt;
  const aclTensor *softmax_out = nullptr, *attention_out = nullptr;  // of the forward
  const aclTensor *dq = nullptr, *dk = nullptr, *dv = nullptr;       // of the backward, to the last
  const aclTensor *dq_rope = nullptr, *dk_rope = nullptr, *dpse = nullptr, *dsink = nullptr;

  // visit(name, argument) for each, in this order.
  template <typename Visit>
  void for_each(Visit&& visit) const {
    for_each_tensor(visit);
    visit("prefix", prefix);
    visit("actual_seq_qlen", actual_seq_qlen);
    visit("actual_seq_kvlen", actual_seq_kvlen);
    visit("q_start_idx", q_start_idx);
    visit("kv_start_idx", kv_start_idx);
    visit("scale", scale);
    visit("keep_prob", keep_prob);
    visit("pre_tockens", pre_tockens);
    visit("next_tockens", next_tockens);
    visit("head_num", head_num);
    visit("input_layout", input_layout);
    visit("inner_precise", inner_precise);
    visit("sparse_mode", sparse_mode);
    visit("pse_type", pse_type);
    visit("softmax_layout", softmax_layout);
    visit("seed", seed);
    visit("offset", offset);
    visit("out_dtype", out_dtype);
  }

  template <typename Visit>
  void for_each_tensor(Visit&& visit) const {
    visit("query", query);
    visit("key", key);
    visit("value", value);
    visit("dy", dy);
    visit("pse", pse);
    visit("drop_mask", drop_mask);
    visit("padding_mask", padding_mask);
    visit("atten_mask", atten_mask);
    visit("softmax_max", softmax_max);
    visit("softmax_sum", softmax_sum);
    visit("softmax_in", softmax_in);
    visit("attention_in", attention_in);
    visit("sink", sink);
    visit("query_rope", query_rope);
    visit("key_rope", key_rope);
    visit("d_scale_q", d_scale_q);
    visit("d_scale_k", d_scale_k);
    visit("d_scale_v", d_scale_v);
    visit("d_scale_dy", d_scale_dy);
    visit("d_scale_o", d_scale_o);
    visit("softmax_out", softmax_out);
    visit("attention_out", attention_out);
    visit("dq", dq);
    visit("dk", dk);
    visit("dv", dv);
    visit("dq_rope", dq_rope);
    visit("dk_rope", dk_rope);
    visit("dpse", dpse);
    visit("dsink", dsink);
  }
};

}  // namespace hostcann
