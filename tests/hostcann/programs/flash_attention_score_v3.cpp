// aclnnFlashAttentionScoreV3, called with what a folder holds.
#include "aclnnop/aclnn_flash_attention_score.h"
#include "call.h"

int main(int, char** arguments) {
  Call call(arguments[1]);
  const int first_code = aclnnFlashAttentionScoreV3GetWorkspaceSize(
      call.tensor("query"), call.tensor("key"), call.tensor("value"), call.tensor("pse"), call.tensor("drop_mask"),
      call.tensor("padding_mask"), call.tensor("atten_mask"), call.tensor("sink"), call.ints("prefix"),
      call.ints("q_start_idx"), call.ints("kv_start_idx"), call.real("scale"), call.real("keep_prob"),
      call.integer("pre_tockens"), call.integer("next_tockens"), call.integer("head_num"), call.text("input_layout"),
      call.integer("inner_precise"), call.integer("sparse_mode"), call.integer("pse_type"), call.tensor("softmax_max"),
      call.tensor("softmax_sum"), call.tensor("softmax_out"), call.tensor("attention_out"), &call.bytes,
      &call.executor);
  return call.run(first_code, aclnnFlashAttentionScoreV3);
}
