// The border between a framework and a kernel: one struct of pointers, strides, sizes and attributes.
//
// Filled by csrc/torch (and by the aclnn host library) after rules.h has accepted the problem; kernels trust it.
// Strides count elements. Tensors may overlap each other only where they are all inputs.
#pragma once

#include <cstdint>

#include "attention/dropout.h"
#include "attention/dtype.h"
#include "attention/layout.h"
#include "attention/pse.h"
#include "attention/sparse.h"

namespace ascendspeed {

struct ConstView {
  const void* data = nullptr;
  Strides strides;  // as [batch, head, position, dim]; in TND the batch has 0 and positions count along T
};

struct View {
  void* data = nullptr;
  Strides strides;
};

// One byte per score, non-zero = excluded. Broadcast axes have stride 0. data == nullptr: no mask content applies.
struct MaskView {
  const uint8_t* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, column = 0;
};

struct AttentionParams {
  Geometry geometry;
  DType dtype = DType::kFloat32;  // of query, key, value, outputs and gradients
  float scale = 1.0f;
  Sparsity sparsity;
  MaskView mask;  // only where sparsity.mask_decides()
  Pse pse;
  const float* sink = nullptr;  // [N], contiguous: one more logit per query head that carries no value; or nullptr
  Dropout dropout;
  ConstView query, key, value;
  ConstView query_rope, key_rope;  // where geometry.rope_dim > 0: more of the head, beside that of query and key
  bool stats_by_position = false;  // softmax_max and softmax_sum are [T, N, 8], else [N, Sq, 8] for each sequence

  // Number of the statistics of a row, in rows of kStatLanes.
  int64_t statistic(const Sequence& s, int64_t head, int64_t row) const {
    if (stats_by_position) return (s.rows_before + row) * geometry.heads + head;
    return s.rows_before * geometry.heads + head * s.q_len + row;
  }
};

struct ForwardParams : AttentionParams {
  View attention_out;
  float* softmax_max = nullptr;  // contiguous, numbered by statistic()
  float* softmax_sum = nullptr;
};

// Where the gradient of a pse tensor goes, in the call's dtype; contiguous along keys.
struct PseGradient {
  void* data = nullptr;  // nullptr: not wanted
  PsePlanes planes;
};

struct BackwardParams : AttentionParams {
  ConstView dy, attention_in;
  const float* softmax_max = nullptr;  // contiguous, numbered by statistic(); lane 0 is read
  const float* softmax_sum = nullptr;
  View dq, dk, dv;
  View dq_rope, dk_rope;
  PseGradient dpse;
  float* dsink = nullptr;  // [N], contiguous; or nullptr
  // How much the scratch may take for each thread to hold dq in float32 until it is complete. It changes no bit of the
  // result: with less, fewer heads are in work at a time, and with too little for one the scores are computed twice.
  int64_t sum_bytes_per_thread = int64_t{48} << 20;
};

}  // namespace ascendspeed
