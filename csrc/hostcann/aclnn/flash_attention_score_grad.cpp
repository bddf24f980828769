// The entry points of the backward of dense layouts: each version's arguments, in its order, by the names of
// arguments.h.
#include "aclnnop/aclnn_flash_attention_score_grad.h"
#include "hostcann/aclnn/arguments.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/plan.h"

using namespace hostcann;

constexpr Api kScoreGrad{.name = "aclnnFlashAttentionScoreGrad"};
aclnnStatus aclnnFlashAttentionScoreGradGetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclIntArray* prefixOptional,
    double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout,
    int64_t innerPrecise, int64_t sparseMode, const aclTensor* dqOut, const aclTensor* dkOut, const aclTensor* dvOut,
    const aclTensor* dpseOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScoreGrad,
                     {.query = query,
                      .key = keyIn,
                      .value = value,
                      .dy = dy,
                      .pse = pseShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOptional,
                      .softmax_sum = softmaxSumOptional,
                      .softmax_in = softmaxInOptional,
                      .attention_in = attentionInOptional,
                      .prefix = prefixOptional,
                      .scale = scaleValue,
                      .keep_prob = keepProb,
                      .pre_tockens = preTokens,
                      .next_tockens = nextTokens,
                      .head_num = headNum,
                      .input_layout = inputLayout,
                      .inner_precise = innerPrecise,
                      .sparse_mode = sparseMode,
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dpse = dpseOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionScoreGrad(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                         const aclrtStream stream) {
  return second_phase(kScoreGrad, workspace, workspaceSize, executor, stream);
}

constexpr Api kScoreGradV2{.name = "aclnnFlashAttentionScoreGradV2"};
aclnnStatus aclnnFlashAttentionScoreGradV2GetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclIntArray* prefixOptional,
    const aclIntArray* qStartIdxOptional, const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb,
    int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode,
    int64_t pseType, const aclTensor* dqOut, const aclTensor* dkOut, const aclTensor* dvOut, const aclTensor* dpseOut,
    uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScoreGradV2,
                     {.query = query,
                      .key = keyIn,
                      .value = value,
                      .dy = dy,
                      .pse = pseShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOptional,
                      .softmax_sum = softmaxSumOptional,
                      .softmax_in = softmaxInOptional,
                      .attention_in = attentionInOptional,
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
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dpse = dpseOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionScoreGradV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                           const aclrtStream stream) {
  return second_phase(kScoreGradV2, workspace, workspaceSize, executor, stream);
}

constexpr Api kScoreGradV3{.name = "aclnnFlashAttentionScoreGradV3"};
aclnnStatus aclnnFlashAttentionScoreGradV3GetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclTensor* sinkInOptional,
    const aclIntArray* prefixOptional, const aclIntArray* qStartIdxOptional, const aclIntArray* kvStartIdxOptional,
    double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout,
    int64_t innerPrecise, int64_t sparseMode, int64_t pseType, const aclTensor* dqOut, const aclTensor* dkOut,
    const aclTensor* dvOut, const aclTensor* dpseOut, const aclTensor* dsinkOut, uint64_t* workspaceSize,
    aclOpExecutor** executor) {
  return first_phase(kScoreGradV3,
                     {.query = query,
                      .key = keyIn,
                      .value = value,
                      .dy = dy,
                      .pse = pseShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOptional,
                      .softmax_sum = softmaxSumOptional,
                      .softmax_in = softmaxInOptional,
                      .attention_in = attentionInOptional,
                      .sink = sinkInOptional,
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
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dpse = dpseOut,
                      .dsink = dsinkOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionScoreGradV3(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                           const aclrtStream stream) {
  return second_phase(kScoreGradV3, workspace, workspaceSize, executor, stream);
}

constexpr Api kScoreGradV4{
    .name = "aclnnFlashAttentionScoreGradV4", .layouts = Api::kAny, .only_950 = true, .makes_dropout = true};
aclnnStatus aclnnFlashAttentionScoreGradV4GetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclTensor* sinkInOptional,
    const aclTensor* queryRopeOptional, const aclTensor* keyRopeOptional, const aclTensor* dScaleQOptional,
    const aclTensor* dScaleKOptional, const aclTensor* dScaleVOptional, const aclTensor* dScaleDyOptional,
    const aclTensor* dScaleOOptional, const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, char* softmaxInLayout, int64_t innerPrecise, int64_t sparseMode,
    int64_t pseType, int64_t seed, int64_t offset, int64_t outDtype, const aclTensor* dqOut, const aclTensor* dkOut,
    const aclTensor* dvOut, const aclTensor* dqRopeOut, const aclTensor* dkRopeOut, const aclTensor* dpseOut,
    const aclTensor* dsinkOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kScoreGradV4,
                     {.query = query,
                      .key = keyIn,
                      .value = value,
                      .dy = dy,
                      .pse = pseShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOptional,
                      .softmax_sum = softmaxSumOptional,
                      .softmax_in = softmaxInOptional,
                      .attention_in = attentionInOptional,
                      .sink = sinkInOptional,
                      .query_rope = queryRopeOptional,
                      .key_rope = keyRopeOptional,
                      .d_scale_q = dScaleQOptional,
                      .d_scale_k = dScaleKOptional,
                      .d_scale_v = dScaleVOptional,
                      .d_scale_dy = dScaleDyOptional,
                      .d_scale_o = dScaleOOptional,
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
                      .softmax_layout = softmaxInLayout,
                      .seed = seed,
                      .offset = offset,
                      .out_dtype = outDtype,
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dq_rope = dqRopeOut,
                      .dk_rope = dkRopeOut,
                      .dpse = dpseOut,
                      .dsink = dsinkOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionScoreGradV4(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                           aclrtStream stream) {
  return second_phase(kScoreGradV4, workspace, workspaceSize, executor, stream);
}
