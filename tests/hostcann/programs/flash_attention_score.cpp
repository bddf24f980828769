// aclnnFlashAttentionScore, called with what a folder holds.
#include "aclnnop/aclnn_flash_attention_score.h"
#include "call.h"

int main(int, char** arguments) {
  Call call(arguments[1]);
  const int first_code = aclnnFlashAttentionScoreGetWorkspaceSize(
      call.tensor("query"), call.tensor("key"), call.tensor("value"), call.tensor("pse"), call.tensor("drop_mask"),
      call.tensor("padding_mask"), call.tensor("atten_mask"), call.ints("prefix"), call.real("scale"),
      call.real("keep_prob"), call.integer("pre_tockens"), call.integer("next_tockens"), call.integer("head_num"),
      call.text("input_layout"), call.integer("inner_precise"), call.integer("sparse_mode"), call.tensor("softmax_max"),
      call.tensor("softmax_sum"), call.tensor("softmax_out"), call.tensor("attention_out"), &call.bytes,
      &call.executor);
  return call.run(first_code, aclnnFlashAttentionScore);
}
