// The NPU kernels of the two operators and of the dropout mask: a call's arguments as aclnn objects, and the version of
// the aclnn call that takes them.
#include "npu/flash_attention_npu.h"

#include <ATen/ops/empty.h>

#include <memory>
#include <string>

#include "attention/dropout.h"
#include "attention/layout.h"
#include "attention/rules.h"
#include "npu/handles.h"
#include "npu/library.h"
#include "npu/versions.h"

namespace ascendspeed::npu {
namespace {

// One call's arguments, and what they point to.
struct Call {
  std::shared_ptr<Handles> handles = std::make_shared<Handles>();
  Arguments arguments;
  std::optional<at::Tensor> drop_mask;  // until the call is queued: what is freed before may become its workspace
  std::string input_layout, softmax_layout;
  bool packed = false;
};

std::optional<at::Tensor> unless_empty(const std::optional<at::Tensor>& tensor) {
  return tensor && tensor->numel() > 0 ? tensor : std::nullopt;
}

// The mask of the call, made on the device where only its seed was given.
std::optional<at::Tensor> drop_mask_of(const at::Tensor& query, const AttributeArguments& rest,
                                       const Resolved& resolved) {
  const double keep_prob = rest.attributes.keep_prob;
  if (rest.drop_mask || keep_prob == 1.0) return rest.drop_mask;
  const Geometry& g = resolved.geometry;
  const int64_t numel = g.heads * g.end().scores_before;
  at::Tensor mask = at::empty({drop_mask_bytes(numel)}, query.options().dtype(at::kByte));
  dropout_gen_mask(mask, numel, keep_prob, static_cast<int64_t>(rest.seed), static_cast<int64_t>(rest.offset));
  return mask;
}

// All that forward and backward have in common.
void describe(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const AttributeArguments& rest,
              const Resolved& resolved, Call* call) {
  const Attributes& attributes = rest.attributes;
  Handles& handles = *call->handles;
  Arguments& a = call->arguments;
  a.float32 = query.scalar_type() == at::kFloat;
  a.query = handles.tensor("query", query);
  a.key = handles.tensor("key", key);
  a.value = handles.tensor("value", value);
  a.pse = handles.tensor("pse", rest.pse);
  call->drop_mask = drop_mask_of(query, rest, resolved);
  a.drop_mask = handles.tensor("drop_mask", call->drop_mask);
  a.atten_mask = handles.tensor("atten_mask", rest.atten_mask);
  a.sink = handles.tensor("sink", unless_empty(rest.sink));
  a.query_rope = handles.tensor("query_rope", rest.query_rope);
  a.key_rope = handles.tensor("key_rope", rest.key_rope);
  a.prefix = handles.ints(attributes.prefix);
  a.actual_seq_qlen = handles.ints(attributes.actual_seq_qlen);
  a.actual_seq_kvlen = handles.ints(attributes.actual_seq_kvlen);
  a.q_start_idx = handles.ints(attributes.q_start_idx);
  a.kv_start_idx = handles.ints(attributes.kv_start_idx);
  a.scale = attributes.scale;
  a.keep_prob = attributes.keep_prob;
  a.pre_tockens = attributes.pre_tockens;
  a.next_tockens = attributes.next_tockens;
  a.head_num = attributes.head_num;
  call->input_layout = layout_name(resolved.layout);
  a.input_layout = call->input_layout.data();
  a.inner_precise = attributes.inner_precise;
  a.sparse_mode = attributes.sparse_mode;
  a.pse_type = attributes.pse_type;
  call->softmax_layout = stats_follow_input(attributes.softmax_layout) ? "same_as_input" : "";
  a.softmax_layout = call->softmax_layout.data();
  call->packed = resolved.layout == Layout::kTND;
}

void execute(const Versions& versions, const Call& call) {
  const auto& [version, api] = versions.choose(call.arguments);
  const auto first_phase = [&version = *version, &api = api, &call](uint64_t* size, aclOpExecutor** executor) {
    return version.first_phase(api.first_phase, call.arguments, size, executor);
  };
  execute(api, first_phase, call.handles);
}

}  // namespace

void forward(const ForwardArguments& given, const Resolved& resolved, const ForwardOutputs& out) {
  Call call;
  describe(given.query, given.key, given.value, given.rest, resolved, &call);
  Arguments& a = call.arguments;
  a.softmax_max = call.handles->tensor("softmax_max", out.softmax_max);
  a.softmax_sum = call.handles->tensor("softmax_sum", out.softmax_sum);
  a.softmax_out = call.handles->tensor("softmax_out",
                                       at::empty({0}, given.query.options()));  // reserved; torch_npu passes the same
  a.attention_out = call.handles->tensor("attention_out", out.attention_out);
  execute(Versions::forward(call.packed), call);
}

void backward(const BackwardArguments& given, const Resolved& resolved, const BackwardOutputs& out) {
  TORCH_CHECK_NOT_IMPLEMENTED(!given.needs_dpse,
                              "pse: aclnnFlashAttentionScoreGrad does not say what it leaves in dpse, so pse has no "
                              "gradient on an NPU; detach it");
  Call call;
  describe(given.query, given.key, given.value, given.rest, resolved, &call);
  Handles& handles = *call.handles;
  Arguments& a = call.arguments;
  a.dy = handles.tensor("dy", given.dy);
  a.softmax_max = handles.tensor("softmax_max", given.softmax_max);
  a.softmax_sum = handles.tensor("softmax_sum", given.softmax_sum);
  a.softmax_in = handles.tensor("softmax_in", given.softmax_in);
  a.attention_in = handles.tensor("attention_in", given.attention_in);
  a.dq = handles.tensor("dq", out.dq);
  a.dk = handles.tensor("dk", out.dk);
  a.dv = handles.tensor("dv", out.dv);
  a.dq_rope = handles.tensor("dq_rope", unless_empty(out.dq_rope));
  a.dk_rope = handles.tensor("dk_rope", unless_empty(out.dk_rope));
  // Of pse's shape where there is one, else empty: the two forms that torch_npu passes.
  const std::optional<at::Tensor>& pse = given.rest.pse;
  const at::Tensor dpse = pse ? at::empty(pse->sizes(), pse->options()) : at::empty({0}, given.query.options());
  a.dpse = handles.tensor("dpse", dpse);
  a.dsink = handles.tensor("dsink", unless_empty(out.dsink));
  execute(Versions::backward(call.packed), call);
}

void dropout_gen_mask(const at::Tensor& mask, int64_t numel, double keep_prob, int64_t seed, int64_t offset) {
  auto handles = std::make_shared<Handles>();
  const aclTensor* out = handles->tensor("drop_mask", mask);
  const aclIntArray* shape = handles->ints(std::vector<int64_t>{numel});
  using FirstPhase = aclnnStatus(const aclIntArray* shape, double prob, int64_t seed, int64_t offset,
                                 aclDataType prob_type, const aclTensor* out, uint64_t*, aclOpExecutor**);
  static const Api api = find_api("aclnnDropoutGenMaskV2");
  TORCH_CHECK_NOT_IMPLEMENTED(api.exists(), "the installed libopapi.so has no ", api.name,
                              ": pass a drop_mask, or install CANN's operator package");
  // Its probability is that of dropping.
  const auto call = [&](uint64_t* size, aclOpExecutor** executor) {
    return reinterpret_cast<FirstPhase*>(api.first_phase)(shape, 1.0 - keep_prob, seed, offset, ACL_FLOAT, out, size,
                                                          executor);
  };
  execute(api, call, std::move(handles));
}

}  // namespace ascendspeed::npu
