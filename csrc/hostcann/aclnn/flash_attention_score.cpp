// The entry points of the forward of dense layouts: each version's arguments, in its order, by the names of
// arguments.h.
#include "aclnnop/aclnn_flash_attention_score.h"
#include "hostcann/aclnn/arguments.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/plan.h"

using namespace hostcann;

constexpr Api kScore{.name = "aclnnFlashAttentionScore"};
aclnnStatus aclnnFlashAttentionScoreGetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclIntArray* prefixOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, const aclTensor* softmaxMaxOut,
    const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut, const aclTensor* attentionOutOut,
    uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScore,
                     {.query = query,
                      .key = key,
                      .value = value,
                      .pse = realShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOut,
                      .softmax_sum = softmaxSumOut,
                      .prefix = prefixOptional,
                      .scale = scaleValue,
                      .keep_prob = keepProb,
                      .pre_tockens = preTokens,
                      .next_tockens = nextTokens,
                      .head_num = headNum,
                      .input_layout = inputLayout,
                      .inner_precise = innerPrecise,
                      .sparse_mode = sparseMode,
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionScore(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                     const aclrtStream stream) {
  return second_phase(kScore, workspace, workspaceSize, executor, stream);
}

constexpr Api kScoreV2{.name = "aclnnFlashAttentionScoreV2"};
aclnnStatus aclnnFlashAttentionScoreV2GetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclIntArray* prefixOptional, const aclIntArray* qStartIdxOptional, const aclIntArray* kvStartIdxOptional,
    double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout,
    int64_t innerPrecise, int64_t sparseMode, int64_t pseType, const aclTensor* softmaxMaxOut,
    const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut, const aclTensor* attentionOutOut,
    uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScoreV2,
                     {.query = query,
                      .key = key,
                      .value = value,
                      .pse = realShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOut,
                      .softmax_sum = softmaxSumOut,
                      .prefix = prefixOptional,
                      .q_start_idx = qStartIdxOptional,
                      .kv_start_idx = kvStartIdxOptional,
                      .scale = scaleValue,
                      .keep_prob = keepProb,
                      .pre_tockens = preTokens,
                      .next_tockens = nextTokens,
                      .head_num = headNum,
                      .input_layout = inputLayout,
                      .inner_precise = innerPrecise,
                      .sparse_mode = sparseMode,
                      .pse_type = pseType,
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionScoreV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                       const aclrtStream stream) {
  return second_phase(kScoreV2, workspace, workspaceSize, executor, stream);
}

constexpr Api kScoreV3{.name = "aclnnFlashAttentionScoreV3"};
aclnnStatus aclnnFlashAttentionScoreV3GetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclTensor* sinkOptional, const aclIntArray* prefixOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, int64_t pseType,
    const aclTensor* softmaxMaxOut, const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut,
    const aclTensor* attentionOutOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScoreV3,
                     {.query = query,
                      .key = key,
                      .value = value,
                      .pse = realShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOut,
                      .softmax_sum = softmaxSumOut,
                      .sink = sinkOptional,
                      .prefix = prefixOptional,
                      .q_start_idx = qStartIdxOptional,
                      .kv_start_idx = kvStartIdxOptional,
                      .scale = scaleValue,
                      .keep_prob = keepProb,
                      .pre_tockens = preTokens,
                      .next_tockens = nextTokens,
                      .head_num = headNum,
                      .input_layout = inputLayout,
                      .inner_precise = innerPrecise,
                      .sparse_mode = sparseMode,
                      .pse_type = pseType,
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionScoreV3(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                       const aclrtStream stream) {
  return second_phase(kScoreV3, workspace, workspaceSize, executor, stream);
}

constexpr Api kScoreV4{
    .name = "aclnnFlashAttentionScoreV4", .layouts = Api::kAny, .only_950 = true, .makes_dropout = true};
aclnnStatus aclnnFlashAttentionScoreV4GetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclTensor* queryRopeOptional, const aclTensor* keyRopeOptional, const aclTensor* dScaleQOptional,
    const aclTensor* dScaleKOptional, const aclTensor* dScaleVOptional, const aclTensor* sinkOptional,
    const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, int64_t outDtype, int64_t pseType,
    char* softmaxOutLayout, int64_t seed, int64_t offset, const aclTensor* softmaxMaxOut,
    const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut, const aclTensor* attentionOutOut,
    uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScoreV4,
                     {.query = query,
                      .key = key,
                      .value = value,
                      .pse = realShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOut,
                      .softmax_sum = softmaxSumOut,
                      .sink = sinkOptional,
                      .query_rope = queryRopeOptional,
                      .key_rope = keyRopeOptional,
                      .d_scale_q = dScaleQOptional,
                      .d_scale_k = dScaleKOptional,
                      .d_scale_v = dScaleVOptional,
                      .prefix = prefixOptional,
                      .actual_seq_qlen = actualSeqQLenOptional,
                      .actual_seq_kvlen = actualSeqKvLenOptional,
                      .q_start_idx = qStartIdxOptional,
                      .kv_start_idx = kvStartIdxOptional,
                      .scale = scaleValue,
                      .keep_prob = keepProb,
                      .pre_tockens = preTokens,
                      .next_tockens = nextTokens,
                      .head_num = headNum,
                      .input_layout = inputLayout,
                      .inner_precise = innerPrecise,
                      .sparse_mode = sparseMode,
                      .pse_type = pseType,
                      .softmax_layout = softmaxOutLayout,
                      .seed = seed,
                      .offset = offset,
                      .out_dtype = outDtype,
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionScoreV4(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                       const aclrtStream stream) {
  return second_phase(kScoreV4, workspace, workspaceSize, executor, stream);
}
