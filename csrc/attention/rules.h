// Every limit of aclnnFlashAttentionScore and aclnnFlashAttentionScoreGrad, written once.
//
// The CPU operator, the fake kernel and the aclnn bindings call these before they allocate or compute anything.
// A refusal names the argument, its value, the rule and the CANN code.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "attention/layout.h"
#include "attention/problem.h"
#include "attention/sparse.h"
#include "attention/status.h"

namespace ascendspeed {

// What a legal problem comes to. Not copied: geometry points into sequences.
struct Resolved {
  Resolved() = default;
  Resolved(const Resolved&) = delete;
  Resolved& operator=(const Resolved&) = delete;

  Layout layout = Layout::kBNSD;
  Geometry geometry;
  std::vector<Sequence> sequences;  // of a packed batch
};

// softmax_layout: whether softmax_max and softmax_sum lie like query, [T, N, 8], as torch_npu and as aclnn spell it.
inline bool stats_follow_input(const std::string& softmax_layout) {
  return softmax_layout == "TND" || softmax_layout == "same_as_input";
}

// The device of each tensor argument that was given, by argument name; the first is query's.
using NamedDevices = std::vector<std::pair<std::string, std::string>>;

Status check_devices(const NamedDevices& devices);
Status check_forward(const ForwardProblem& problem, Resolved* resolved);
Status check_backward(const BackwardProblem& problem, Resolved* resolved);
// A dropout mask made for `numel` probabilities.
Status check_dropout_bits(int64_t numel, double keep_prob);

}  // namespace ascendspeed
