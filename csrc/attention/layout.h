// input_layout: which dimension of a tensor is batch, head, position and head size.
//
// B batch, N query heads, Nkv key/value heads, Sq/Skv lengths, D size of a query/key head, Dv of a value head,
// H = N * D. In BSH and SBH the heads lie side by side in H: h = n * D + d. In TND the sequences of a batch, each with
// lengths of its own, lie end to end in T.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/problem.h"
#include "attention/status.h"

namespace ascendspeed {

enum class Layout { kBSH, kSBH, kBSND, kBNSD, kTND };

// One element of the batch: its lengths, where it lies in packed tensors, and what lies before it.
struct Sequence {
  int64_t index = 0;  // b
  int64_t q_len = 0, kv_len = 0;
  int64_t q_begin = 0, kv_begin = 0;  // first row and key along T; 0 where the batch is a dimension
  int64_t rows_before = 0;            // sum of Sq over the sequences before
  int64_t scores_before = 0;          // sum of Sq * Skv over the sequences before

  bool empty() const { return q_len == 0 || kv_len == 0; }
};

// Sizes every kernel and rule works with, whatever the layout was.
struct Geometry {
  int64_t batch = 0;
  int64_t heads = 0;     // N
  int64_t kv_heads = 0;  // Nkv; query head n reads key/value head n / (N / Nkv)
  int64_t q_len = 0;     // the longest sequence's, as kv_len
  int64_t kv_len = 0;
  int64_t qk_dim = 0;                   // D
  int64_t v_dim = 0;                    // Dv
  int64_t rope_dim = 0;                 // size of query_rope's and key_rope's heads, 0 without them
  int64_t q_total = 0, kv_total = 0;    // positions along the length dimension of tensors: Sq, Skv or T
  const Sequence* sequences = nullptr;  // [batch] in TND, else nullptr: all alike

  int64_t group() const { return kv_heads == 0 ? 0 : heads / kv_heads; }
  int64_t score_dim() const { return qk_dim + rope_dim; }
  bool output_is_empty() const { return batch == 0 || heads == 0 || q_len == 0; }
  bool nothing_to_attend() const { return kv_heads == 0 || kv_len == 0 || qk_dim == 0; }
  // Then no kernel runs and every output is 0.
  bool nothing_to_compute() const { return output_is_empty() || nothing_to_attend(); }

  Sequence sequence(int64_t b) const {
    if (sequences != nullptr) return sequences[b];
    return {b, q_len, kv_len, 0, 0, b * q_len, b * q_len * kv_len};
  }

  // An empty sequence after the last: where it would begin, and what all of them add up to.
  Sequence end() const {
    if (sequences == nullptr || batch == 0) return {batch, 0, 0, 0, 0, batch * q_len, batch * q_len * kv_len};
    const Sequence& last = sequences[batch - 1];
    return {batch,
            0,
            0,
            last.q_begin + last.q_len,
            last.kv_begin + last.kv_len,
            last.rows_before + last.q_len,
            last.scores_before + last.q_len * last.kv_len};
  }
};

// Elements between neighbours along each axis of [batch, head, position, dim].
struct Strides {
  int64_t batch = 0, head = 0, position = 0, dim = 0;
};

// "BSH", as CANN and torch_npu take it.
const char* layout_name(Layout layout);

// Upper-cases and parses; the message of a failure names the layouts there are.
Status parse_layout(const std::string& text, Layout* layout);

// Sizes from the shapes of query, key and value; in TND as if it were one sequence. Refuses what cannot be one
// attention problem.
Status deduce_geometry(Layout layout, int64_t head_num, const TensorInfo& query, const TensorInfo& key,
                       const TensorInfo& value, Geometry* geometry);

// `strides` are the tensor's own, one per dimension; `head_dim` is D or Dv, which BSH and SBH need to split H.
Strides split_strides(Layout layout, const int64_t* strides, int64_t head_dim);

// The shape of attention_out, dy and attention_in; with the size D or Drope of a head, that of query or query_rope.
std::vector<int64_t> layout_shape(Layout layout, const Geometry& geometry, int64_t head_dim);

// The last axis of softmax_max and softmax_sum: one 32-byte block of the hardware, eight equal values.
constexpr int64_t kStatLanes = 8;

// [B, N, Sq, 8], in TND [T, N, 8].
std::vector<int64_t> stats_shape(Layout layout, const Geometry& geometry);

// "[2, 16, 128]"
std::string shape_text(const std::vector<int64_t>& sizes);

}  // namespace ascendspeed
