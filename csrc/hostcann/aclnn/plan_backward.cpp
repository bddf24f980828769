// The backward: checks, then the outputs' own, then what the second phase runs.
#include <memory>

#include "cpu/flash_backward.h"
#include "hostcann/aclnn/checks.h"
#include "hostcann/aclnn/plan.h"
#include "hostcann/aclnn/problem.h"
#include "hostcann/aclnn/status.h"

namespace hostcann {
namespace {

using ascendspeed::Geometry;
using ascendspeed::Layout;

void check_like(const char* name, const aclTensor* output, const aclTensor* like) {
  check_output(name, output, like->sizes, like->dtype);
}

// The outputs that have an input to be like: dpse may be left out, or empty where there is no pse.
void check_gradients(const Arguments& a) {
  check_like("dq", a.dq, a.query);
  check_like("dk", a.dk, a.key);
  check_like("dv", a.dv, a.value);
  const struct {
    const char* name;
    const aclTensor *output, *like;
  } optional[] = {{"dq_rope", a.dq_rope, a.query_rope},
                  {"dk_rope", a.dk_rope, a.key_rope},
                  {"dpse", a.dpse, a.pse},
                  {"dsink", a.dsink, a.sink}};
  for (const auto& [name, output, like] : optional) {
    if (output == nullptr || (like == nullptr && count_elements(output->sizes) == 0)) continue;
    if (like == nullptr) {
      refuse_value(std::string(name) + " " + ascendspeed::shape_text(output->sizes) +
                   ": there is no input it could be the gradient of, must be null or empty");
    }
    check_like(name, output, like);
  }
}

class Backward {
 public:
  explicit Backward(const Api& api, const Arguments& a)
      : problem_{describe(*a.query),     describe(*a.key),         describe(*a.value),
                 describe(*a.dy),        describe(a.softmax_max),  describe(a.softmax_sum),
                 describe(a.softmax_in), describe(a.attention_in), attributes_of(a)},
        inputs_(a, &workspace_),
        max_(a.softmax_max, &workspace_),
        sum_(a.softmax_sum, &workspace_),
        dpse_(a.dpse, &workspace_),
        dsink_(a.dsink, &workspace_),
        dy_(a.dy),
        attention_in_(a.attention_in),
        dq_(a.dq),
        dk_(a.dk),
        dv_(a.dv),
        dq_rope_(a.dq_rope),
        dk_rope_(a.dk_rope) {
    require(ascendspeed::check_backward(problem_, &resolved_));
    check_gradients(a);
    if (!problem_.attributes.drop_mask && !api.makes_dropout) problem_.attributes.keep_prob = 1.0;
    if (computes()) {
      const ascendspeed::BackwardParams p = params(Workspace::nowhere());
      scratch_ = workspace_.take(ascendspeed::cpu::backward_scratch_bytes(p, threads_.threads));
    } else {
      workspace_ = {};
    }
  }

  int64_t workspace_bytes() const { return workspace_.bytes(); }

  void run(void* unaligned) const {
    char* workspace = Workspace::aligned(unaligned);
    int64_t q_used = 0, kv_used = 0;
    if (computes()) {
      inputs_.copy_in(workspace);
      max_.copy_in(workspace);
      sum_.copy_in(workspace);
      const ascendspeed::BackwardParams p = params(workspace);
      ascendspeed::cpu::flash_backward(p, threads_, workspace + scratch_);
      if (p.dpse.data != nullptr) dpse_.copy_out(workspace);
      if (p.dsink != nullptr) dsink_.copy_out(workspace);
      const bool packed = resolved_.layout == Layout::kTND;
      q_used = packed ? resolved_.geometry.end().q_begin : dq_.sizes.front();
      kv_used = packed ? resolved_.geometry.end().kv_begin : dk_.sizes.front();
    }
    // Where nothing is computed, and after the last sequence of a packed batch, gradients are 0.
    for (const Strided* output : {&dq_, &dq_rope_}) output->zero(q_used);
    for (const Strided* output : {&dk_, &dk_rope_, &dv_}) output->zero(kv_used);
    if (!computes() || !has_dpse()) dpse_.original().zero();
    if (!computes()) dsink_.original().zero();
  }

 private:
  bool computes() const { return !resolved_.geometry.nothing_to_compute(); }

  // Slopes have no gradient in CANN: their dpse is 0.
  bool has_dpse() const {
    return dpse_.original().count() > 0 && !ascendspeed::is_generated(problem_.attributes.pse_type);
  }

  ascendspeed::BackwardParams params(char* workspace) const {
    const Layout layout = resolved_.layout;
    const Geometry& g = resolved_.geometry;
    ascendspeed::BackwardParams p;
    fill_params(*problem_.query, problem_.attributes, resolved_, inputs_.memory(workspace), &p);
    p.dy = dy_.const_view(layout, g.v_dim);
    p.attention_in = attention_in_.const_view(layout, g.v_dim);
    p.softmax_max = reinterpret_cast<const float*>(max_.data(workspace));
    p.softmax_sum = reinterpret_cast<const float*>(sum_.data(workspace));
    p.dq = dq_.view(layout, g.qk_dim);
    p.dk = dk_.view(layout, g.qk_dim);
    p.dv = dv_.view(layout, g.v_dim);
    if (g.rope_dim > 0) {
      p.dq_rope = dq_rope_.view(layout, g.rope_dim);
      p.dk_rope = dk_rope_.view(layout, g.rope_dim);
    }
    if (has_dpse()) {
      const std::vector<int64_t> strides = row_major(dpse_.original().sizes);
      p.dpse = {dpse_.data(workspace), ascendspeed::pse_planes(problem_.attributes, resolved_, strides)};
    }
    if (p.sink != nullptr) p.dsink = reinterpret_cast<float*>(dsink_.data(workspace));
    return p;
  }

  ascendspeed::BackwardProblem problem_;
  ascendspeed::Resolved resolved_;
  Workspace workspace_;
  Inputs inputs_;
  Contiguous max_, sum_, dpse_, dsink_;
  Strided dy_, attention_in_, dq_, dk_, dv_, dq_rope_, dk_rope_;
  ascendspeed::cpu::Parallel threads_ = host_threads();
  int64_t scratch_ = 0;
};

}  // namespace

Plan plan_backward(const Api& api, const Arguments& arguments) {
  check_arguments(api, arguments, true);
  const auto backward = std::make_shared<const Backward>(api, arguments);
  return {backward->workspace_bytes(), ranges_of(arguments), [backward](void* workspace) { backward->run(workspace); }};
}

}  // namespace hostcann
