// Each version's arguments in its order, put together from the runs that all have in common. The compiler compares
// every list with CANN's prototype.
#include "npu/versions.h"

#include <c10/util/Exception.h>

#include <array>
#include <type_traits>

#include "aclnnop/aclnn_flash_attention_score.h"
#include "aclnnop/aclnn_flash_attention_score_grad.h"

namespace ascendspeed::npu {
namespace {

template <typename T>
T type_of_field(T Arguments::*);

// A run of arguments.
template <auto... fields>
struct Fields {
  using FirstPhase = aclnnStatus (*)(decltype(type_of_field(fields))..., uint64_t*, aclOpExecutor**);

  static aclnnStatus first_phase(void* address, const Arguments& arguments, uint64_t* size, aclOpExecutor** executor) {
    return reinterpret_cast<FirstPhase>(address)((arguments.*fields)..., size, executor);
  }

  template <auto field>
  static constexpr bool has = (std::is_same_v<std::integral_constant<decltype(fields), fields>,
                                              std::integral_constant<decltype(field), field>> ||
                               ...);
};

template <typename... Runs>
struct JoinRuns;
template <auto... fields>
struct JoinRuns<Fields<fields...>> {
  using Type = Fields<fields...>;
};
template <auto... first, auto... second, typename... Rest>
struct JoinRuns<Fields<first...>, Fields<second...>, Rest...> : JoinRuns<Fields<first..., second...>, Rest...> {};
template <typename... Runs>
using Join = typename JoinRuns<Runs...>::Type;

using A = Arguments;

// What both calls have.
using QueryKeyValue = Fields<&A::query, &A::key, &A::value>;
using WithRope = Fields<&A::query, &A::query_rope, &A::key, &A::key_rope, &A::value>;
using Masks = Fields<&A::pse, &A::drop_mask, &A::padding_mask, &A::atten_mask>;
using Rope = Fields<&A::query_rope, &A::key_rope>;
using Scales = Fields<&A::d_scale_q, &A::d_scale_k, &A::d_scale_v>;
using Sink = Fields<&A::sink>;
using Prefix = Fields<&A::prefix>;
using Lengths = Fields<&A::actual_seq_qlen, &A::actual_seq_kvlen>;
using Starts = Fields<&A::q_start_idx, &A::kv_start_idx>;
using UpToLayout = Fields<&A::scale, &A::keep_prob, &A::pre_tockens, &A::next_tockens, &A::head_num, &A::input_layout>;
using Modes = Fields<&A::inner_precise, &A::sparse_mode>;
using PseType = Fields<&A::pse_type>;
using SoftmaxLayout = Fields<&A::softmax_layout>;
using Seed = Fields<&A::seed, &A::offset>;
using OutDtype = Fields<&A::out_dtype>;

using Outputs = Fields<&A::softmax_max, &A::softmax_sum, &A::softmax_out, &A::attention_out>;

using Score = Join<QueryKeyValue, Masks, Prefix, UpToLayout, Modes, Outputs>;
using ScoreV2 = Join<QueryKeyValue, Masks, Prefix, Starts, UpToLayout, Modes, PseType, Outputs>;
using ScoreV3 = Join<QueryKeyValue, Masks, Sink, Prefix, Starts, UpToLayout, Modes, PseType, Outputs>;
using ScoreV4 = Join<QueryKeyValue, Masks, Rope, Scales, Sink, Prefix, Lengths, Starts, UpToLayout, Modes, OutDtype,
                     PseType, SoftmaxLayout, Seed, Outputs>;
using VarLen = Join<QueryKeyValue, Masks, Prefix, Lengths, UpToLayout, Modes, Outputs>;
using VarLenV2 = Join<QueryKeyValue, Masks, Prefix, Lengths, Starts, UpToLayout, Modes, PseType, Outputs>;
using VarLenV3 = Join<WithRope, Masks, Prefix, Lengths, Starts, UpToLayout, Modes, PseType, Outputs>;
using VarLenV4 = Join<QueryKeyValue, Masks, Prefix, Lengths, UpToLayout, Modes, SoftmaxLayout, Outputs>;
using VarLenV5 =
    Join<WithRope, Masks, Sink, Prefix, Lengths, Starts, UpToLayout, Modes, PseType, SoftmaxLayout, Outputs>;

using Dy = Fields<&A::dy>;
using OfForward = Fields<&A::softmax_max, &A::softmax_sum, &A::softmax_in, &A::attention_in>;
using GradScales = Join<Scales, Fields<&A::d_scale_dy, &A::d_scale_o>>;
using Gradients = Fields<&A::dq, &A::dk, &A::dv>;
using GradientsWithRope = Fields<&A::dq, &A::dq_rope, &A::dk, &A::dk_rope, &A::dv>;
using RopeGradients = Fields<&A::dq_rope, &A::dk_rope>;
using Dpse = Fields<&A::dpse>;
using Dsink = Fields<&A::dsink>;
using Inputs = Join<QueryKeyValue, Dy, Masks, OfForward>;
using InputsWithRope = Join<WithRope, Dy, Masks, OfForward>;

using Grad = Join<Inputs, Prefix, UpToLayout, Modes, Gradients, Dpse>;
using GradV2 = Join<Inputs, Prefix, Starts, UpToLayout, Modes, PseType, Gradients, Dpse>;
using GradV3 = Join<Inputs, Sink, Prefix, Starts, UpToLayout, Modes, PseType, Gradients, Dpse, Dsink>;
using GradV4 = Join<Inputs, Sink, Rope, GradScales, Prefix, Lengths, Starts, UpToLayout, SoftmaxLayout, Modes, PseType,
                    Seed, OutDtype, Gradients, RopeGradients, Dpse, Dsink>;
using Unpadding = Join<Inputs, Prefix, Lengths, UpToLayout, Modes, Gradients, Dpse>;
using UnpaddingV2 = Join<Inputs, Prefix, Lengths, Starts, UpToLayout, Modes, PseType, Gradients, Dpse>;
using UnpaddingV3 = Join<InputsWithRope, Prefix, Lengths, Starts, UpToLayout, Modes, PseType, GradientsWithRope, Dpse>;
using UnpaddingV4 = Join<Inputs, Prefix, Lengths, UpToLayout, Modes, Gradients, Dpse, SoftmaxLayout>;
using UnpaddingV5 = Join<InputsWithRope, Sink, Prefix, Lengths, Starts, UpToLayout, Modes, PseType, SoftmaxLayout,
                         GradientsWithRope, Dpse, Dsink>;

// Limits on CANN's pages that are narrower than the operator's.
bool any(const Arguments&) { return true; }
bool no_float32(const Arguments& a) { return !a.float32; }
bool rope_only(const Arguments& a) { return a.query_rope != nullptr; }  // bfloat16, without pse, dropout and slopes

template <typename Signature>
const char* lacks(const Arguments& a) {
  const auto lacking = [](bool given, bool has) { return given && !has; };
  if (lacking(a.sink != nullptr, Signature::template has<&A::sink>)) return "sink";
  if (lacking(a.query_rope != nullptr, Signature::template has<&A::query_rope>)) return "query_rope";
  if (lacking(a.pse_type != Arguments().pse_type, Signature::template has<&A::pse_type>)) return "pse_type";
  if (lacking(a.q_start_idx != nullptr, Signature::template has<&A::q_start_idx>)) return "q_start_idx";
  if (lacking(a.kv_start_idx != nullptr, Signature::template has<&A::kv_start_idx>)) return "kv_start_idx";
  const bool ordered = a.softmax_layout != nullptr && *a.softmax_layout != '\0';
  if (lacking(ordered, Signature::template has<&A::softmax_layout>)) return "softmax_layout";
  return nullptr;
}

#define VERSION(signature, function, only_950, admits)                                           \
  [] {                                                                                           \
    static_assert(std::is_same_v<signature::FirstPhase, decltype(&function##GetWorkspaceSize)>); \
    return Version{#function, only_950, signature::first_phase, lacks<signature>, admits};       \
  }()

constexpr std::array kDenseForward{
    VERSION(ScoreV4, aclnnFlashAttentionScoreV4, true, any),
    VERSION(ScoreV3, aclnnFlashAttentionScoreV3, false, no_float32),
    VERSION(ScoreV2, aclnnFlashAttentionScoreV2, false, any),
    VERSION(Score, aclnnFlashAttentionScore, false, any),
};
constexpr std::array kPackedForward{
    VERSION(ScoreV4, aclnnFlashAttentionScoreV4, true, any),
    VERSION(VarLenV5, aclnnFlashAttentionVarLenScoreV5, false, no_float32),
    VERSION(VarLenV4, aclnnFlashAttentionVarLenScoreV4, false, any),
    VERSION(VarLenV3, aclnnFlashAttentionVarLenScoreV3, false, rope_only),
    VERSION(VarLenV2, aclnnFlashAttentionVarLenScoreV2, false, any),
    VERSION(VarLen, aclnnFlashAttentionVarLenScore, false, any),
};
constexpr std::array kDenseBackward{
    VERSION(GradV4, aclnnFlashAttentionScoreGradV4, true, any),
    VERSION(GradV3, aclnnFlashAttentionScoreGradV3, false, no_float32),
    VERSION(GradV2, aclnnFlashAttentionScoreGradV2, false, any),
    VERSION(Grad, aclnnFlashAttentionScoreGrad, false, any),
};
constexpr std::array kPackedBackward{
    VERSION(GradV4, aclnnFlashAttentionScoreGradV4, true, any),
    VERSION(UnpaddingV5, aclnnFlashAttentionUnpaddingScoreGradV5, false, no_float32),
    VERSION(UnpaddingV4, aclnnFlashAttentionUnpaddingScoreGradV4, false, any),
    VERSION(UnpaddingV3, aclnnFlashAttentionUnpaddingScoreGradV3, false, rope_only),
    VERSION(UnpaddingV2, aclnnFlashAttentionUnpaddingScoreGradV2, false, any),
    VERSION(Unpadding, aclnnFlashAttentionUnpaddingScoreGrad, false, any),
};
#undef VERSION

bool has(const std::string& soc, const Version& version) { return !version.only_950 || soc.starts_with("Ascend950"); }

}  // namespace

Versions::Versions(std::span<const Version> all) : soc_(soc_name()) {
  for (const Version& version : all) {
    if (!has(soc_, version)) continue;
    of_chip_.push_back(&version);
    Api api = find_api(version.name);
    if (api.exists()) installed_.push_back({&version, std::move(api)});
  }
}

const Versions& Versions::forward(bool packed) {
  static const Versions dense(kDenseForward), of_packed(kPackedForward);
  return packed ? of_packed : dense;
}

const Versions& Versions::backward(bool packed) {
  static const Versions dense(kDenseBackward), of_packed(kPackedBackward);
  return packed ? of_packed : dense;
}

const Versions::Installed& Versions::choose(const Arguments& arguments) const {
  const Installed* able = nullptr;
  for (const Installed& each : installed_) {
    if (each.version->lacks(arguments) != nullptr) continue;
    if (each.version->admits(arguments)) return each;
    if (able == nullptr) able = &each;
  }
  if (able != nullptr) return *able;
  TORCH_CHECK_NOT_IMPLEMENTED(!installed_.empty(), "the installed libopapi.so has none of ", of_chip_.back()->name,
                              "'s versions that run on ", soc_, ": install CANN's operator package");
  const Version& newest = *installed_.front().version;
  const Version* oldest_able = nullptr;
  for (const Version* version : of_chip_) {
    if (version->lacks(arguments) == nullptr) oldest_able = version;
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, newest.lacks(arguments), ": ", newest.name,
      ", the newest that the installed libopapi.so has, cannot express it; it takes a CANN with ",
      oldest_able == nullptr ? "a newer version" : oldest_able->name);
}

}  // namespace ascendspeed::npu
