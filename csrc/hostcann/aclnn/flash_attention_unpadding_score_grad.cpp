// The entry points of the backward of packed batches: each version's arguments, in its order, by the names of
// arguments.h.
#include "aclnnop/aclnn_flash_attention_score_grad.h"
#include "hostcann/aclnn/arguments.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/plan.h"

using namespace hostcann;

constexpr Api kUnpaddingScoreGrad{.name = "aclnnFlashAttentionUnpaddingScoreGrad", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradGetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclIntArray* prefixOptional,
    const aclIntArray* actualSeqQLenOptional, const aclIntArray* actualSeqKvLenOptional, double scaleValue,
    double keepProb, int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise,
    int64_t sparseMode, const aclTensor* dqOut, const aclTensor* dkOut, const aclTensor* dvOut,
    const aclTensor* dpseOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kUnpaddingScoreGrad,
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
                      .actual_seq_qlen = actualSeqQLenOptional,
                      .actual_seq_kvlen = actualSeqKvLenOptional,
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
aclnnStatus aclnnFlashAttentionUnpaddingScoreGrad(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                  const aclrtStream stream) {
  return second_phase(kUnpaddingScoreGrad, workspace, workspaceSize, executor, stream);
}

constexpr Api kUnpaddingScoreGradV2{.name = "aclnnFlashAttentionUnpaddingScoreGradV2", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV2GetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclIntArray* prefixOptional,
    const aclIntArray* actualSeqQLenOptional, const aclIntArray* actualSeqKvLenOptional,
    const aclIntArray* qStartIdxOptional, const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb,
    int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode,
    int64_t pseType, const aclTensor* dqOut, const aclTensor* dkOut, const aclTensor* dvOut, const aclTensor* dpseOut,
    uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kUnpaddingScoreGradV2,
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
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dpse = dpseOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                    const aclrtStream stream) {
  return second_phase(kUnpaddingScoreGradV2, workspace, workspaceSize, executor, stream);
}

constexpr Api kUnpaddingScoreGradV3{.name = "aclnnFlashAttentionUnpaddingScoreGradV3", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV3GetWorkspaceSize(
    const aclTensor* query, const aclTensor* queryRope, const aclTensor* keyIn, const aclTensor* keyInRope,
    const aclTensor* value, const aclTensor* dy, const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional,
    const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional,
    const aclTensor* softmaxSumOptional, const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional,
    const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, int64_t pseType,
    const aclTensor* dqOut, const aclTensor* dqRopeOut, const aclTensor* dkOut, const aclTensor* dkRopeOut,
    const aclTensor* dvOut, const aclTensor* dpseOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kUnpaddingScoreGradV3,
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
                      .query_rope = queryRope,
                      .key_rope = keyInRope,
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
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dq_rope = dqRopeOut,
                      .dk_rope = dkRopeOut,
                      .dpse = dpseOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV3(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                    const aclrtStream stream) {
  return second_phase(kUnpaddingScoreGradV3, workspace, workspaceSize, executor, stream);
}

constexpr Api kUnpaddingScoreGradV4{.name = "aclnnFlashAttentionUnpaddingScoreGradV4", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV4GetWorkspaceSize(
    const aclTensor* query, const aclTensor* keyIn, const aclTensor* value, const aclTensor* dy,
    const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional,
    const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional, const aclTensor* softmaxSumOptional,
    const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional, const aclIntArray* prefixOptional,
    const aclIntArray* actualSeqQLenOptional, const aclIntArray* actualSeqKvLenOptional, double scaleValue,
    double keepProb, int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise,
    int64_t sparseMode, const aclTensor* dqOut, const aclTensor* dkOut, const aclTensor* dvOut,
    const aclTensor* dpseOut, char* softmaxInLayout, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kUnpaddingScoreGradV4,
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
                      .actual_seq_qlen = actualSeqQLenOptional,
                      .actual_seq_kvlen = actualSeqKvLenOptional,
                      .scale = scaleValue,
                      .keep_prob = keepProb,
                      .pre_tockens = preTokens,
                      .next_tockens = nextTokens,
                      .head_num = headNum,
                      .input_layout = inputLayout,
                      .inner_precise = innerPrecise,
                      .sparse_mode = sparseMode,
                      .softmax_layout = softmaxInLayout,
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dpse = dpseOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV4(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                    const aclrtStream stream) {
  return second_phase(kUnpaddingScoreGradV4, workspace, workspaceSize, executor, stream);
}

constexpr Api kUnpaddingScoreGradV5{.name = "aclnnFlashAttentionUnpaddingScoreGradV5", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV5GetWorkspaceSize(
    const aclTensor* query, const aclTensor* queryRope, const aclTensor* keyIn, const aclTensor* keyInRope,
    const aclTensor* value, const aclTensor* dy, const aclTensor* pseShiftOptional, const aclTensor* dropMaskOptional,
    const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional, const aclTensor* softmaxMaxOptional,
    const aclTensor* softmaxSumOptional, const aclTensor* softmaxInOptional, const aclTensor* attentionInOptional,
    const aclTensor* sinkInOptional, const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, int64_t pseType,
    char* softmaxInLayout, const aclTensor* dqOut, const aclTensor* dqRopeOut, const aclTensor* dkOut,
    const aclTensor* dkRopeOut, const aclTensor* dvOut, const aclTensor* dpseOut, const aclTensor* dsinkOut,
    uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kUnpaddingScoreGradV5,
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
                      .query_rope = queryRope,
                      .key_rope = keyInRope,
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
                      .dq = dqOut,
                      .dk = dkOut,
                      .dv = dvOut,
                      .dq_rope = dqRopeOut,
                      .dk_rope = dkRopeOut,
                      .dpse = dpseOut,
                      .dsink = dsinkOut},
                     workspaceSize, executor, plan_backward);
}
aclnnStatus aclnnFlashAttentionUnpaddingScoreGradV5(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                    const aclrtStream stream) {
  return second_phase(kUnpaddingScoreGradV5, workspace, workspaceSize, executor, stream);
}
