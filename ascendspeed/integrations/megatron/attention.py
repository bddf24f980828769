"""Megatron's core attention, computed by the fused operator. Masks are masks.py's business, head counts heads.py's.

# sq/sk query and key length, b batch, np query heads and ng key/value groups of this rank, hn head size, t tokens of a
# packed batch
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ascendspeed.integrations.megatron.alibi import alibi_slopes
from ascendspeed.integrations.megatron.heads import local_heads
from ascendspeed.integrations.megatron.masks import AttentionPlan, plan_attention
from ascendspeed.integrations.megatron.packed import cu_seqlens_of, documents_of
from ascendspeed.integrations.megatron.plan_memo import PlanMemo
from ascendspeed.integrations.megatron.refusals import check_masks, refuse_what_is_missing
from ascendspeed.integrations.megatron.versions import layer_window, tensor_parallel_rank, tensor_parallel_size
from ascendspeed.ops import draw_seed, flash_attention_score

__all__ = ["AscendDotProductAttention"]


class AscendDotProductAttention(MegatronModule):
    """Drop-in for megatron.core's DotProductAttention; holds no parameters, and no call changes what another computes.

    Attention dropout (config.attention_dropout) acts in training mode only, inside the operator: no mask is stored.

    The scale is softmax_scale, or hn ** -0.5. apply_query_key_layer_scaling changes nothing: it divides by the layer
    number before the softmax and multiplies by it inside, for the sake of float16 scores that are never stored here.
    """

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
        alibi: bool = False,
        plans: PlanMemo | None = None,
    ) -> None:
        """Args as megatron.core's DotProductAttention, and

            mask: a name from MASK_KINDS; None: attn_mask_type's.
            alibi: subtract slope * |i - j| from the scaled scores, with each head's ALiBi slope.
            plans: what the layers of a model share, so that a batch's plan is made once; None: this layer alone.

        pg_collection is called model_comm_pgs before megatron-core 0.15.

        Raises:
            NotImplementedError: the config asks for something the module does not do yet; the message names the field.
            ValueError: heads, groups and tensor-parallel size do not divide, a field is out of range, or the mask
                cannot have the config's window.
        """
        super().__init__(config=config)
        refuse_what_is_missing(config)
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        if not 0 <= self.dropout < 1:
            raise ValueError(f"attention_dropout={self.dropout} (--attention-dropout) is outside 0 <= p < 1")
        self.layer_number = max(1, layer_number)
        self.attn_mask_type = attn_mask_type
        self.attention_type = attention_type
        self.mask_kind = attn_mask_type.name if mask is None else mask
        check_masks(config, self.mask_kind)
        groups = model_comm_pgs if pg_collection is None else pg_collection
        self.heads = local_heads(config.num_attention_heads, config.num_query_groups, tensor_parallel_size(groups))
        self.head_size: int = config.kv_channels
        self.scale = 1.0 / math.sqrt(self.head_size) if softmax_scale is None else softmax_scale
        self.window_size = layer_window(config, self.layer_number)
        self.slopes: tuple[float, ...] | None = None
        self.first_head = tensor_parallel_rank(groups) * self.heads.head_num  # of all the model's
        if alibi:
            slopes = alibi_slopes(config.num_attention_heads)
            self.slopes = slopes[self.first_head : self.first_head + self.heads.head_num]
        self._plans = PlanMemo() if plans is None else plans

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
            query: [sq, b, np, hn]; key, value: [sk, b, ng, hn]. Packed: [t, np, hn] and [t, ng, hn], or with a dim b of
                size 1 as above.
            attention_mask: what the layer's mask kind takes, see docs/megatron.md.
            attn_mask_type: must be the one the layer was built for, or None.
            attention_bias: added to the scaled scores, [1 or b, 1 or np, 1 or sq, sk] of query's dtype.
            packed_seq_params: the documents of a packed batch ("thd"); no token sees another document's. Lengths on the
                CPU cost nothing, lengths on a device make every layer wait for it.

        Returns:
            [sq, b, np * hn], packed [t, np * hn]
        """
        if attn_mask_type not in {None, self.attn_mask_type}:
            raise NotImplementedError(
                f"attn_mask_type={attn_mask_type} in the call of a layer built for {self.attn_mask_type} "
                "(decoding with a key/value cache) is not supported yet"
            )
        plan = self.plan(query, key, attention_mask, packed_seq_params)
        if attention_bias is not None:
            plan = self._with_bias(plan, query, key, attention_bias)
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
        packed = plan.layout == "TND"
        query, key, value = (_packed(t) if packed else t.flatten(2) for t in (query, key, value))
        output: Tensor = flash_attention_score(
            query,
            key,
            value,
            self.heads.head_num,
            plan.layout,
            atten_mask=plan.atten_mask,
            prefix=plan.prefix,
            actual_seq_qlen=plan.actual_seq_qlen,
            actual_seq_kvlen=plan.actual_seq_kvlen,
            pse=plan.pse,
            pse_type=plan.pse_type,
            scale=self.scale,
            keep_prob=keep_prob,
            seed=seed,
            pre_tockens=plan.pre_tockens,
            next_tockens=plan.next_tockens,
            inner_precise=plan.inner_precise,
            sparse_mode=plan.sparse_mode,
        ).attention_out
        return output.flatten(1) if packed else output

    def plan(
        self,
        query: Tensor,
        key: Tensor,
        attention_mask: Tensor | None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> AttentionPlan:
        """The mask arguments the operator gets for this batch; query and key are read for sizes and device only.

        Without a mask of the scores' size it is made by the first layer of its kind that meets the batch, and the same
        object in the others.
        """
        packed = packed_seq_params is not None
        batch_size = 1 if packed else query.shape[1]

        def make() -> AttentionPlan:
            return plan_attention(
                self.mask_kind,
                attention_mask,
                batch_size=batch_size,
                query_length=query.shape[0],
                key_length=key.shape[0],
                device=query.device,
                window_size=self.window_size,
                documents=None
                if packed_seq_params is None
                else documents_of(packed_seq_params, query.shape[0], key.shape[0]),
                slopes=self.slopes,
            )

        return self._plans.plan(
            (self.mask_kind, self.window_size, self.slopes),
            (packed, batch_size, query.shape[0], key.shape[0], query.device),
            (attention_mask, *(() if packed_seq_params is None else cu_seqlens_of(packed_seq_params))),
            make,
        )

    def _with_bias(self, plan: AttentionPlan, query: Tensor, key: Tensor, bias: Tensor) -> AttentionPlan:
        if plan.layout == "TND":
            raise NotImplementedError("attention_bias with packed_seq_params is not supported yet")
        if plan.pse is not None:
            raise NotImplementedError("attention_bias in a layer with ALiBi is not supported yet")
        full = (query.shape[1], self.heads.head_num, query.shape[0], key.shape[0])
        if bias.dim() != 4 or any(size not in {1, whole} for size, whole in zip(bias.shape, full, strict=True)):
            raise ValueError(
                f"attention_bias has shape {list(bias.shape)}; "
                f"it must be [1 or b, 1 or np, 1 or sq, sk] of {list(full)}"
            )
        return replace(plan, pse=bias.expand(-1, full[1], -1, full[3]), pse_type=0)

    def _dropout_seed(self, query: Tensor) -> int:
        """Drawn where Megatron's own attention draws its mask: each tensor-parallel rank from its own generator.

        With sequence parallelism the whole block already runs in that generator (TransformerBlock.forward). Activation
        recomputation restores the generators, draws the same seed and so meets the same mask.
        """
        if self.config.sequence_parallel:
            return draw_seed(query.device)
        with get_cuda_rng_tracker().fork():
            return draw_seed(query.device)


def _packed(tensor: Tensor) -> Tensor:
    """[t, n, d] of [t, n, d] or [t, 1, n, d]."""
    if tensor.dim() == 4 and tensor.shape[1] == 1:
        return tensor.squeeze(1)
    if tensor.dim() != 3:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} with packed_seq_params; it must be [t, n, d]")
    return tensor
