"""The attention operator: torch.ops.ascendspeed and the functions users call.

Importing it needs torch and the compiled ascendspeed._C, nothing else.
"""

from ascendspeed.ops.dropout import draw_seed, dropout_gen_mask
from ascendspeed.ops.flash_attention import NO_LIMIT, FlashAttentionScoreOutput, flash_attention_score
from ascendspeed.ops.fusion_attention import (
    _npu_dropout_gen_mask,
    npu_fusion_attention,
    npu_fusion_attention_grad,
    npu_fusion_attention_grad_v2,
    npu_fusion_attention_v2,
)
from ascendspeed.ops.library import active_isa
from ascendspeed.ops.masks import compressed_atten_mask
from ascendspeed.ops.ring_attention import npu_ring_attention_update
from ascendspeed.ops.seed_api import FlashAttention, npu_flash_attention, npu_flash_attention_grad

__all__ = [
    "NO_LIMIT",
    "FlashAttention",
    "FlashAttentionScoreOutput",
    "_npu_dropout_gen_mask",
    "active_isa",
    "compressed_atten_mask",
    "draw_seed",
    "dropout_gen_mask",
    "flash_attention_score",
    "npu_flash_attention",
    "npu_flash_attention_grad",
    "npu_fusion_attention",
    "npu_fusion_attention_grad",
    "npu_fusion_attention_grad_v2",
    "npu_fusion_attention_v2",
    "npu_ring_attention_update",
]
