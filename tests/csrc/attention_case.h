// One random attention problem, as numbers: no strides, no pointers, nothing of csrc's own way of putting it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention/dtype.h"
#include "tensor.h"

namespace ascendspeed::test {

enum class PseForm { kNone, kRows, kOneRow, kCompressed, kSlopes };
enum class DropoutForm { kNone, kBits, kSeed };

struct AttentionCase {
  uint64_t number = 0;
  bool packed = false;                   // TND
  std::vector<int64_t> q_lens, kv_lens;  // of each batch element; all alike unless packed
  int64_t q_tail = 0, kv_tail = 0;       // positions of packed tensors that belong to no batch element
  int64_t heads = 1, kv_heads = 1, qk_dim = 1, v_dim = 1, rope_dim = 0;
  DType dtype = DType::kFloat32;
  float scale = 1.0f;
  bool stats_by_position = false;

  bool masked = false;
  int64_t sparse_mode = 0, pre_tockens = 0, next_tockens = 0;
  std::vector<int64_t> prefix;
  Tensor mask;  // [1 or B, 1 or N, longest Sq, longest Skv]; empty where the mode alone decides

  PseForm pse_form = PseForm::kNone;
  int64_t pse_type = 1, q_start = 0, kv_start = 0;
  bool pse_flat = false;  // one dimension: sequences end to end
  Tensor pse;             // [1 or B, N, Sq or 1 or 1024, Skv]; flat [1, 1, 1, count]; slopes [1 or B, N, 1, 1]

  bool has_sink = false;
  std::vector<double> sink;
  DropoutForm dropout = DropoutForm::kNone;
  double keep_prob = 1.0;
  uint64_t seed = 0, offset = 0;
  std::vector<uint8_t> drop_bits;

  // [B, N, S, D], packed [1, N, T, D]; positions of the tail hold NaN.
  Tensor query, key, value, query_rope, key_rope, dy;

  int64_t batch() const { return static_cast<int64_t>(q_lens.size()); }
  int64_t group() const { return heads / kv_heads; }
  int64_t longest_q() const { return *std::max_element(q_lens.begin(), q_lens.end()); }
  int64_t longest_kv() const { return *std::max_element(kv_lens.begin(), kv_lens.end()); }
  // Where batch element b lies: its index along the tensors' first axis, and its first position.
  int64_t tensor_batch(int64_t b) const { return packed ? 0 : b; }
  int64_t q_begin(int64_t b) const { return packed ? sum_before(q_lens, b) : 0; }
  int64_t kv_begin(int64_t b) const { return packed ? sum_before(kv_lens, b) : 0; }
  int64_t q_total() const { return packed ? sum_before(q_lens, batch()) + q_tail : q_lens[0]; }
  int64_t kv_total() const { return packed ? sum_before(kv_lens, batch()) + kv_tail : kv_lens[0]; }
  int64_t rows_before(int64_t b) const { return sum_before(q_lens, b); }
  int64_t scores_before(int64_t b) const {
    int64_t sum = 0;
    for (int64_t i = 0; i < b; ++i) sum += q_lens[i] * kv_lens[i];
    return sum;
  }
  std::string text() const;  // for messages

 private:
  static int64_t sum_before(const std::vector<int64_t>& lens, int64_t b) {
    int64_t sum = 0;
    for (int64_t i = 0; i < b; ++i) sum += lens[i];
    return sum;
  }
};

// The case of a number; consecutive numbers go round the sparse modes, dense and packed.
AttentionCase random_case(uint64_t number);

}  // namespace ascendspeed::test
