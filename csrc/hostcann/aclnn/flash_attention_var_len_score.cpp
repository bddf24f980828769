// The entry points of the forward of packed batches: each version's arguments, in its order, by the names of
// arguments.h.
#include "aclnnop/aclnn_flash_attention_score.h"
#include "hostcann/aclnn/arguments.h"
#include "hostcann/aclnn/executor.h"
#include "hostcann/aclnn/plan.h"

using namespace hostcann;

constexpr Api kVarLenScore{.name = "aclnnFlashAttentionVarLenScore", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionVarLenScoreGetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, double scaleValue, double keepProb, int64_t preTokens,
    int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode,
    const aclTensor* softmaxMaxOut, const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut,
    const aclTensor* attentionOutOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kVarLenScore,
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
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionVarLenScore(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                           const aclrtStream stream) {
  return second_phase(kVarLenScore, workspace, workspaceSize, executor, stream);
}

constexpr Api kVarLenScoreV2{.name = "aclnnFlashAttentionVarLenScoreV2", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionVarLenScoreV2GetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, int64_t pseType,
    const aclTensor* softmaxMaxOut, const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut,
    const aclTensor* attentionOutOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kVarLenScoreV2,
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
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionVarLenScoreV2(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                             const aclrtStream stream) {
  return second_phase(kVarLenScoreV2, workspace, workspaceSize, executor, stream);
}

constexpr Api kVarLenScoreV3{.name = "aclnnFlashAttentionVarLenScoreV3", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionVarLenScoreV3GetWorkspaceSize(
    const aclTensor* query, const aclTensor* queryRope, const aclTensor* key, const aclTensor* keyRope,
    const aclTensor* value, const aclTensor* realShiftOptional, const aclTensor* dropMaskOptional,
    const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional, const aclIntArray* prefixOptional,
    const aclIntArray* actualSeqQLenOptional, const aclIntArray* actualSeqKvLenOptional,
    const aclIntArray* qStartIdxOptional, const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb,
    int64_t preTokens, int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode,
    int64_t pseType, const aclTensor* softmaxMaxOut, const aclTensor* softmaxSumOut, const aclTensor* softmaxOutOut,
    const aclTensor* attentionOutOut, uint64_t* workspaceSize, aclOpExecutor** executor) {
  return first_phase(kVarLenScoreV3,
                     {.query = query,
                      .key = key,
                      .value = value,
                      .pse = realShiftOptional,
                      .drop_mask = dropMaskOptional,
                      .padding_mask = paddingMaskOptional,
                      .atten_mask = attenMaskOptional,
                      .softmax_max = softmaxMaxOut,
                      .softmax_sum = softmaxSumOut,
                      .query_rope = queryRope,
                      .key_rope = keyRope,
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
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionVarLenScoreV3(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                             const aclrtStream stream) {
  return second_phase(kVarLenScoreV3, workspace, workspaceSize, executor, stream);
}

constexpr Api kVarLenScoreV4{.name = "aclnnFlashAttentionVarLenScoreV4", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionVarLenScoreV4GetWorkspaceSize(
    const aclTensor* query, const aclTensor* key, const aclTensor* value, const aclTensor* realShiftOptional,
    const aclTensor* dropMaskOptional, const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional,
    const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, double scaleValue, double keepProb, int64_t preTokens,
    int64_t nextTokens, int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode,
    char* softmaxOutLayout, const aclTensor* softmaxMaxOut, const aclTensor* softmaxSumOut,
    const aclTensor* softmaxOutOut, const aclTensor* attentionOutOut, uint64_t* workspaceSize,
    aclOpExecutor** executor) {
  return first_phase(kVarLenScoreV4,
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
                      .softmax_layout = softmaxOutLayout,
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionVarLenScoreV4(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                             const aclrtStream stream) {
  return second_phase(kVarLenScoreV4, workspace, workspaceSize, executor, stream);
}

constexpr Api kVarLenScoreV5{.name = "aclnnFlashAttentionVarLenScoreV5", .layouts = Api::kPacked};
aclnnStatus aclnnFlashAttentionVarLenScoreV5GetWorkspaceSize(
    const aclTensor* query, const aclTensor* queryRope, const aclTensor* key, const aclTensor* keyRope,
    const aclTensor* value, const aclTensor* realShiftOptional, const aclTensor* dropMaskOptional,
    const aclTensor* paddingMaskOptional, const aclTensor* attenMaskOptional, const aclTensor* sinkOptional,
    const aclIntArray* prefixOptional, const aclIntArray* actualSeqQLenOptional,
    const aclIntArray* actualSeqKvLenOptional, const aclIntArray* qStartIdxOptional,
    const aclIntArray* kvStartIdxOptional, double scaleValue, double keepProb, int64_t preTokens, int64_t nextTokens,
    int64_t headNum, char* inputLayout, int64_t innerPrecise, int64_t sparseMode, int64_t pseType,
    char* softmaxOutLayout, const aclTensor* softmaxMaxOut, const aclTensor* softmaxSumOut,
    const aclTensor* softmaxOutOut, const aclTensor* attentionOutOut, uint64_t* workspaceSize,
    aclOpExecutor** executor) {
  return first_phase(kVarLenScoreV5,
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
                      .query_rope = queryRope,
                      .key_rope = keyRope,
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
                      .softmax_out = softmaxOutOut,
                      .attention_out = attentionOutOut},
                     workspaceSize, executor, plan_forward);
}
aclnnStatus aclnnFlashAttentionVarLenScoreV5(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                             const aclrtStream stream) {
  return second_phase(kVarLenScoreV5, workspace, workspaceSize, executor, stream);
}
