// aclnnFlashAttentionUnpaddingScoreGradV5, called with what a folder holds.
#include "aclnnop/aclnn_flash_attention_score_grad.h"
#include "call.h"

int main(int, char** arguments) {
  Call call(arguments[1]);
  const int first_code = aclnnFlashAttentionUnpaddingScoreGradV5GetWorkspaceSize(
      call.tensor("query"), call.tensor("query_rope"), call.tensor("key"), call.tensor("key_rope"),
      call.tensor("value"), call.tensor("dy"), call.tensor("pse"), call.tensor("drop_mask"),
      call.tensor("padding_mask"), call.tensor("atten_mask"), call.tensor("softmax_max"), call.tensor("softmax_sum"),
      call.tensor("softmax_in"), call.tensor("attention_in"), call.tensor("sink"), call.ints("prefix"),
      call.ints("actual_seq_qlen"), call.ints("actual_seq_kvlen"), call.ints("q_start_idx"), call.ints("kv_start_idx"),
      call.real("scale"), call.real("keep_prob"), call.integer("pre_tockens"), call.integer("next_tockens"),
      call.integer("head_num"), call.text("input_layout"), call.integer("inner_precise"), call.integer("sparse_mode"),
      call.integer("pse_type"), call.text("softmax_layout"), call.tensor("dq"), call.tensor("dq_rope"),
      call.tensor("dk"), call.tensor("dk_rope"), call.tensor("dv"), call.tensor("dpse"), call.tensor("dsink"),
      &call.bytes, &call.executor);
  return call.run(first_code, aclnnFlashAttentionUnpaddingScoreGradV5);
}
