// The mask of attention's dropout, from a seed.
#pragma once

#include "aclnn/aclnn_base.h"

#ifdef __cplusplus
extern "C" {
#endif

// One bit for each element of `shape`, LSB first, 1 = kept, in a contiguous ACL_UINT8 tensor of as many bytes as whole
// blocks of 128 elements need; bits past the elements are 0. `prob` in [0, 1] is the probability of a 0. The bits are
// those that docs/operator.md describes for keep_prob = 1 - prob, not the hardware's.
ACL_FUNC_VISIBILITY aclnnStatus aclnnDropoutGenMaskGetWorkspaceSize(const aclIntArray* shape, double prob, int64_t seed,
                                                                    int64_t offset, aclTensor* out,
                                                                    uint64_t* workspaceSize, aclOpExecutor** executor);
ACL_FUNC_VISIBILITY aclnnStatus aclnnDropoutGenMask(void* workspace, uint64_t workspaceSize, aclOpExecutor* executor,
                                                    aclrtStream stream);

#ifdef __cplusplus
}
#endif
