// The forward: checks, then the outputs' own, then what the second phase runs.
#include <memory>

#include "cpu/flash_forward.h"
#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/plan.h"
#include "hostcann/aclnn/problem.h"
#include "hostcann/aclnn/status.h"

namespace hostcann {
namespace {

using ascendspeed::Geometry;
using ascendspeed::Layout;

class Forward {
 public:
  Forward(const Api& api, const Arguments& a)
      : problem_{describe(*a.query), describe(*a.key), describe(*a.value), attributes_of(a)},
        inputs_(a, &workspace_),
        max_(a.softmax_max, &workspace_),
        sum_(a.softmax_sum, &workspace_),
        out_(a.attention_out) {
    require(ascendspeed::check_forward(problem_, &resolved_));
    const Geometry& g = resolved_.geometry;
    check_output("attention_out", a.attention_out, ascendspeed::layout_shape(resolved_.layout, g, g.v_dim),
                 a.query->dtype);
    for (const auto& [name, stats] : {std::pair("softmax_max", a.softmax_max), {"softmax_sum", a.softmax_sum}}) {
      check_output(name, stats, ascendspeed::stats_shape(resolved_.layout, g), ACL_FLOAT);
    }
    if (problem_.attributes.drop_mask == std::nullopt && !api.makes_dropout) problem_.attributes.keep_prob = 1.0;
    if (computes()) {
      scratch_ =
          workspace_.take(ascendspeed::cpu::forward_scratch_bytes(params(Workspace::nowhere()), threads_.threads));
    } else {
      workspace_ = {};
    }
  }

  int64_t workspace_bytes() const { return workspace_.bytes(); }

  void run(void* unaligned) const {
    char* workspace = Workspace::aligned(unaligned);
    if (computes()) {
      inputs_.copy_in(workspace);
      ascendspeed::cpu::flash_forward(params(workspace), threads_, workspace + scratch_);
      max_.copy_out(workspace);
      sum_.copy_out(workspace);
    }
    zero_unused();
  }

 private:
  bool computes() const { return !resolved_.geometry.nothing_to_compute(); }

  ascendspeed::ForwardParams params(char* workspace) const {
    ascendspeed::ForwardParams p;
    fill_params(*problem_.query, problem_.attributes, resolved_, inputs_.memory(workspace), &p);
    p.attention_out = out_.view(resolved_.layout, resolved_.geometry.v_dim);
    p.softmax_max = reinterpret_cast<float*>(max_.data(workspace));
    p.softmax_sum = reinterpret_cast<float*>(sum_.data(workspace));
    return p;
  }

  // Outputs are 0 where nothing is computed, and after the last sequence of a packed batch.
  void zero_unused() const {
    if (computes() && resolved_.layout != Layout::kTND) return;
    const int64_t first = computes() ? resolved_.geometry.end().q_begin : 0;
    for (const Strided* output : {&out_, &max_.original(), &sum_.original()}) output->zero(first);
  }

  ascendspeed::ForwardProblem problem_;
  ascendspeed::Resolved resolved_;
  Workspace workspace_;
  Inputs inputs_;
  Contiguous max_, sum_;
  Strided out_;
  ascendspeed::cpu::Parallel threads_ = host_threads();
  int64_t scratch_ = 0;
};

}  // namespace

Plan plan_forward(const Api& api, const Arguments& arguments) {
  check_arguments(api, arguments, false);
  const auto forward = std::make_shared<const Forward>(api, arguments);
  return {forward->workspace_bytes(), ranges_of(arguments), [forward](void* workspace) { forward->run(workspace); }};
}

}  // namespace hostcann
