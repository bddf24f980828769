"""Megatron's core attention, computed by the fused operator. Masks are masks.py's business, head counts heads.py's.

# sq/sk query and key length, b batch, np query heads and ng key/value groups of this rank, hn head size
"""

from __future__ import annotations

import math
from typing import Any

from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ascendspeed.integrations.megatron.heads import local_heads
from ascendspeed.integrations.megatron.masks import MASK_KINDS, AttentionPlan, plan_attention
from ascendspeed.integrations.megatron.versions import layer_window, setting, tensor_parallel_size
from ascendspeed.ops import draw_seed, flash_attention_score

__all__ = ["AscendDotProductAttention"]


class AscendDotProductAttention(MegatronModule):
    """Drop-in for megatron.core's DotProductAttention; holds no parameters and no state between calls.

    Attention dropout (config.attention_dropout) acts in training mode only, inside the operator: no mask is stored.

    The scale is softmax_scale, or hn ** -0.5. apply_query_key_layer_scaling changes nothing: it divides by the layer
    number before the softmax and multiplies by it inside, for the sake of float16 scores that are never stored here.
    """

    layout = "SBH"  # what Megatron's [s, b, n, d] tensors are with the last two dims joined

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: Any = None,
        *,
        model_comm_pgs: Any = None,
        mask: str | None = None,
    ) -> None:
        """Args as megatron.core's DotProductAttention, and `mask`: a name from MASK_KINDS, None = attn_mask_type's.

        pg_collection is called model_comm_pgs before megatron-core 0.15.

        Raises:
            NotImplementedError: the config asks for something the module does not do yet; the message names the field.
            ValueError: heads, groups and tensor-parallel size do not divide, or a field is out of range.
        """
        super().__init__(config=config)
        _refuse_what_is_missing(config)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        if not 0 <= self.dropout < 1:
            raise ValueError(f"attention_dropout={self.dropout} (--attention-dropout) is outside 0 <= p < 1")
        self.layer_number = max(1, layer_number)
        self.attn_mask_type = attn_mask_type
        self.attention_type = attention_type
        self.mask_kind = attn_mask_type.name if mask is None else mask
        if self.mask_kind not in MASK_KINDS:
            raise ValueError(f"mask={self.mask_kind!r} is not one of {', '.join(MASK_KINDS)}")
        ranks = tensor_parallel_size(model_comm_pgs if pg_collection is None else pg_collection)
        self.heads = local_heads(config.num_attention_heads, config.num_query_groups, ranks)
        self.head_size: int = config.kv_channels
        self.scale = 1.0 / math.sqrt(self.head_size) if softmax_scale is None else softmax_scale
        self.window_size = layer_window(config, self.layer_number)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attention of this rank's heads.

        Args:
            query: [sq, b, np, hn]; key, value: [sk, b, ng, hn].
            attention_mask: what the layer's mask kind takes, see docs/megatron.md.
            attn_mask_type: must be the one the layer was built for, or None.

        Returns:
            [sq, b, np * hn]
        """
        if packed_seq_params is not None:
            raise NotImplementedError("packed_seq_params is not supported yet")
        if attention_bias is not None:
            raise NotImplementedError("attention_bias is not supported yet")
        if attn_mask_type not in {None, self.attn_mask_type}:
            raise NotImplementedError(
                f"attn_mask_type={attn_mask_type} in the call of a layer built for {self.attn_mask_type} "
                "(decoding with a key/value cache) is not supported yet"
            )
        plan = self.plan(query, key, attention_mask)
        if not self.training or self.dropout == 0:
            return self.attend(query, key, value, plan)
        return self.attend(query, key, value, plan, keep_prob=1 - self.dropout, seed=self._dropout_seed(query))

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: AttentionPlan,
        *,
        keep_prob: float = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """The operator under a plan that is already made; a dropout mask is the one of `seed`."""
        output: Tensor = flash_attention_score(
            query.flatten(2),
            key.flatten(2),
            value.flatten(2),
            self.heads.head_num,
            self.layout,
            atten_mask=plan.atten_mask,
            prefix=None if plan.prefix is None else list(plan.prefix),
            scale=self.scale,
            keep_prob=keep_prob,
            seed=seed,
            pre_tockens=plan.pre_tockens,
            next_tockens=plan.next_tockens,
            inner_precise=plan.inner_precise,
            sparse_mode=plan.sparse_mode,
        ).attention_out
        return output

    def plan(self, query: Tensor, key: Tensor, attention_mask: Tensor | None) -> AttentionPlan:
        """The mask arguments the operator gets for this batch; query and key are read for sizes and device only."""
        return plan_attention(
            self.mask_kind,
            attention_mask,
            batch_size=query.shape[1],
            query_length=query.shape[0],
            key_length=key.shape[0],
            device=query.device,
            window_size=self.window_size,
        )

    def _dropout_seed(self, query: Tensor) -> int:
        """Drawn where Megatron's own attention draws its mask: each tensor-parallel rank from its own generator.

        With sequence parallelism the whole block already runs in that generator (TransformerBlock.forward). Activation
        recomputation restores the generators, draws the same seed and so meets the same mask.
        """
        if self.config.sequence_parallel:
            return draw_seed(query.device)
        with get_cuda_rng_tracker().fork():
            return draw_seed(query.device)


def _refuse_what_is_missing(config: TransformerConfig) -> None:
    missing = (
        (config.context_parallel_size > 1, f"context_parallel_size={config.context_parallel_size}", "1"),
        (
            setting(config, "softmax_type") != "vanilla",
            f"softmax_type={setting(config, 'softmax_type')!r}",
            "'vanilla'",
        ),
        (setting(config, "qk_clip"), "qk_clip=True", "False"),
        (setting(config, "log_max_attention_logit"), "log_max_attention_logit=True", "False"),
    )
    for asked, name, only in missing:
        if asked:
            raise NotImplementedError(f"{name} is not supported yet by AscendDotProductAttention; it must be {only}")
