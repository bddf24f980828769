// The arguments of every version of the operator's two calls, in C's types, by the names of docs/operator.md.
//
// The versions differ in which of them they have and in their order: versions.h. What a call does not give keeps its
// default, which is what a version that lacks the argument means.
#pragma once

#include <cstdint>

#include "aclnn/acl_meta.h"

namespace ascendspeed::npu {

struct Arguments {
  const aclTensor *query = nullptr, *key = nullptr, *value = nullptr, *dy = nullptr;
  const aclTensor *pse = nullptr, *drop_mask = nullptr, *padding_mask = nullptr, *atten_mask = nullptr;
  const aclTensor *softmax_max = nullptr, *softmax_sum = nullptr;  // outputs of the forward
  const aclTensor *softmax_in = nullptr, *attention_in = nullptr;
  const aclTensor *sink = nullptr, *query_rope = nullptr, *key_rope = nullptr;
  // Of quantised inputs, which the operator does not have.
  const aclTensor *d_scale_q = nullptr, *d_scale_k = nullptr, *d_scale_v = nullptr;
  const aclTensor *d_scale_dy = nullptr, *d_scale_o = nullptr;
  const aclIntArray *prefix = nullptr, *actual_seq_qlen = nullptr, *actual_seq_kvlen = nullptr;
  const aclIntArray *q_start_idx = nullptr, *kv_start_idx = nullptr;
  double scale = 1.0, keep_prob = 1.0;
  int64_t pre_tockens = 2147483647, next_tockens = 2147483647, head_num = 0;
  char* input_layout = nullptr;
  int64_t inner_precise = 0, sparse_mode = 0, pse_type = 1;
  char* softmax_layout = nullptr;
  // Of the dropout that one version generates itself; the mask is always passed.
  int64_t seed = 0, offset = 0;
  int64_t out_dtype = 0;                                             // of quantised inputs
  const aclTensor *softmax_out = nullptr, *attention_out = nullptr;  // of the forward
  const aclTensor *dq = nullptr, *dk = nullptr, *dv = nullptr;       // of the backward, to the last
  const aclTensor *dq_rope = nullptr, *dk_rope = nullptr, *dpse = nullptr, *dsink = nullptr;

  bool float32 = false;  // the dtype of query, which some versions limit; not an argument itself
};

}  // namespace ascendspeed::npu
