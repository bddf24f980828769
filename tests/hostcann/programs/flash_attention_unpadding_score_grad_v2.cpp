// aclnnFlashAttentionUnpaddingScoreGradV2, called with what a folder holds.
#include "aclnnop/aclnn_flash_attention_score_grad.h"
#include "call.h"

int main(int, char** arguments) {
  Call call(arguments[1]);
  const int first_code = aclnnFlashAttentionUnpaddingScoreGradV2GetWorkspaceSize(
      call.tensor("query"), call.tensor("key"), call.tensor("value"), call.tensor("dy"), call.tensor("pse"),
      call.tensor("drop_mask"), call.tensor("padding_mask"), call.tensor("atten_mask"), call.tensor("softmax_max"),
      call.tensor("softmax_sum"), call.tensor("softmax_in"), call.tensor("attention_in"), call.ints("prefix"),
      call.ints("actual_seq_qlen"), call.ints("actual_seq_kvlen"), call.ints("q_start_idx"), call.ints("kv_start_idx"),
      call.real("scale"), call.real("keep_prob"), call.integer("pre_tockens"), call.integer("next_tockens"),
      call.integer("head_num"), call.text("input_layout"), call.integer("inner_precise"), call.integer("sparse_mode"),
      call.integer("pse_type"), call.tensor("dq"), call.tensor("dk"), call.tensor("dv"), call.tensor("dpse"),
      &call.bytes, &call.executor);
  return call.run(first_code, aclnnFlashAttentionUnpaddingScoreGradV2);
}
