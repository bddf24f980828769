// input_layout: which dimension of a tensor is batch, head, position and head size.
//
// B batch, N query heads, Nkv key/value heads, Sq/Skv lengths, D size of a query/key head, Dv of a value head,
// H = N * D. In BSH and SBH the heads lie side by side in H: h = n * D + d.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "attention/problem.h"
#include "attention/status.h"

namespace ascendspeed {

enum class Layout { kBSH, kSBH, kBSND, kBNSD };

// Sizes every kernel and rule works with, whatever the layout was.
struct Geometry {
  int64_t batch = 0;
  int64_t heads = 0;     // N
  int64_t kv_heads = 0;  // Nkv; query head n reads key/value head n / (N / Nkv)
  int64_t q_len = 0;
  int64_t kv_len = 0;
  int64_t qk_dim = 0;  // D
  int64_t v_dim = 0;   // Dv

  int64_t group() const { return kv_heads == 0 ? 0 : heads / kv_heads; }
  bool output_is_empty() const { return batch == 0 || heads == 0 || q_len == 0; }
  bool nothing_to_attend() const { return kv_heads == 0 || kv_len == 0 || qk_dim == 0; }
};

// Elements between neighbours along each axis of [batch, head, position, dim].
struct Strides {
  int64_t batch = 0, head = 0, position = 0, dim = 0;
};

// Upper-cases and parses; the message of a failure names the layouts there are.
Status parse_layout(const std::string& text, Layout* layout);

// Sizes from the shapes of query, key and value. Refuses what cannot be one attention problem.
Status deduce_geometry(Layout layout, int64_t head_num, const TensorInfo& query, const TensorInfo& key,
                       const TensorInfo& value, Geometry* geometry);

// `strides` are the tensor's own, one per dimension; `head_dim` is D or Dv, which BSH and SBH need to split H.
Strides split_strides(Layout layout, const int64_t* strides, int64_t head_dim);

// The shape of a tensor of `heads` heads with `length` positions and heads of size `head_dim`; returns the rank.
int layout_shape(Layout layout, int64_t batch, int64_t heads, int64_t length, int64_t head_dim,
                 std::array<int64_t, 4>* shape);

// "[2, 16, 128]"
std::string shape_text(const std::vector<int64_t>& sizes);

}  // namespace ascendspeed
