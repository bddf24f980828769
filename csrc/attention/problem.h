// What a caller asked for, before anything is known to be legal: shapes, dtypes and attributes.
//
// Filled from torch tensors, fake tensors or aclTensors; read by rules.h. It holds no data pointers, so that
// a problem of any size can be judged without memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attention/dtype.h"

namespace ascendspeed {

struct TensorInfo {
  std::vector<int64_t> sizes;
  DType dtype = DType::kOther;
  std::string dtype_name;  // as the caller's framework spells it, for messages
};

using OptionalTensor = std::optional<TensorInfo>;
using OptionalInts = std::optional<std::vector<int64_t>>;

// Attribute names and defaults are those of aclnnFlashAttentionScore and torch_npu.
struct Attributes {
  int64_t head_num = 0;
  std::string input_layout;
  OptionalTensor pse, drop_mask, padding_mask, atten_mask, sink, query_rope, key_rope;
  OptionalInts prefix, actual_seq_qlen, actual_seq_kvlen, q_start_idx, kv_start_idx;
  double scale = 1.0;
  double keep_prob = 1.0;
  int64_t pre_tockens = 2147483647;
  int64_t next_tockens = 2147483647;
  int64_t inner_precise = 0;
  int64_t sparse_mode = 0;
  int64_t pse_type = 1;
  std::string softmax_layout;
};

struct ForwardProblem {
  OptionalTensor query, key, value;  // required: what is missing is refused by name
  Attributes attributes;
};

struct BackwardProblem {
  OptionalTensor query, key, value, dy;  // required
  OptionalTensor softmax_max, softmax_sum, softmax_in, attention_in;
  Attributes attributes;
};

}  // namespace ascendspeed
