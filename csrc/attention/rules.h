// Every limit of aclnnFlashAttentionScore and aclnnFlashAttentionScoreGrad, written once.
//
// The CPU operator, the fake kernel and the aclnn bindings call these before they allocate or compute anything.
// A refusal names the argument, its value, the rule and the CANN code.
#pragma once

#include "attention/layout.h"
#include "attention/problem.h"
#include "attention/sparse.h"
#include "attention/status.h"

namespace ascendspeed {

// What a legal problem comes to.
struct Resolved {
  Layout layout = Layout::kBNSD;
  Geometry geometry;
};

Status check_forward(const ForwardProblem& problem, Resolved* resolved);
Status check_backward(const BackwardProblem& problem, Resolved* resolved);

}  // namespace ascendspeed
