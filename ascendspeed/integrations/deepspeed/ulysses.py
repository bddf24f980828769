"""Ulysses: each rank holds a slice of the sequence, and attends with a share of the heads over all of it.

DeepSpeed's DistributedAttention exchanges slices for heads and back, by all-to-all; in between runs the operator, in
the core attention that the layer had before. Everything else in a layer works position by position and sees the slice
only.

# S length of the whole sequence, P ranks, b batch, np query heads and ng key/value groups of the layer, hn head size
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.attention import Attention
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from ascendspeed.integrations.deepspeed.heads import ulysses_heads
from ascendspeed.integrations.deepspeed.library import load
from ascendspeed.integrations.megatron.attention import AscendDotProductAttention

__all__ = ["UlyssesAttention", "distribute_sequence"]


class UlyssesAttention(torch.nn.Module):
    """Core attention of a slice; takes the place of the AscendDotProductAttention that it gets, and then holds."""

    def __init__(self, local: AscendDotProductAttention, group: dist.ProcessGroup) -> None:
        """
        Args:
            local: of a layer with all its heads; from now on of this rank's share of them.
            group: the ranks that share a sequence.

        Raises:
            ValueError: the group's size does not divide the heads (see `ulysses_heads`).
        """
        super().__init__()
        heads, ranks = local.heads, dist.get_world_size(group)
        self.copies = max(1, ranks // heads.query_groups)
        local.heads = ulysses_heads(heads.head_num, heads.query_groups, ranks)
        self.local = local
        # A method and not the module, which would be registered a second time.
        self.distributed = load("sequence.layer").DistributedAttention(self._attend, group, scatter_idx=2, gather_idx=0)

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
        """Attention of this rank's slice to the whole sequence.

        Args:
            query: [S/P, b, np, hn]; key, value: [S/P, b, ng, hn].
            attention_mask: of the whole sequence, as AscendDotProductAttention takes it.

        Returns:
            [S/P, b, np * hn]
        """
        if packed_seq_params is not None:
            raise NotImplementedError("packed_seq_params with Ulysses is not supported yet")
        if self.copies > 1:  # each rank gets a key/value head of its own, the one its query heads use
            key, value = (tensor.repeat_interleave(self.copies, dim=2) for tensor in (key, value))
        dim_of_batch, rotary = 1, None  # the positions are already in query and key
        output: Tensor = self.distributed(
            query, key, value, dim_of_batch, rotary, attention_mask, attn_mask_type, attention_bias
        )
        return output.flatten(2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Tensor:
        """[S, b, np/P, hn] and [S, b, ng/P, hn] to [S, b, np/P, hn]: all positions, this rank's heads."""
        output: Tensor = self.local(query, key, value, *others)
        return output.unflatten(2, query.shape[2:])


def distribute_sequence(gpt: GPTModel, group: dist.ProcessGroup) -> None:
    """Make a model of ours one that takes this rank's slice of a sequence and returns the slice's losses.

    Its tokens, position ids and labels are to be cut by `local_slice`; the position ids are those of the whole
    sequence. With a group of one rank the model stays as it is.

    Args:
        gpt: built with `get_gpt_layer_spec`, without tensor, pipeline or context parallelism.
        group: the ranks that share a sequence.

    Raises:
        ValueError: a layer's attention is not the operator's, or the group's size does not divide its heads.
        NotImplementedError: tensor, pipeline or context parallelism, positions of another kind, or state per head.
    """
    if dist.get_world_size(group) == 1:
        return
    for field in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"):
        size = getattr(gpt.config, field)
        if size != 1:
            raise NotImplementedError(f"{field}={size} with Ulysses is not supported; it must be 1")
    for attention in [module for module in gpt.modules() if isinstance(module, Attention)]:
        core = attention.core_attention
        if type(core) is not AscendDotProductAttention:
            raise ValueError(
                f"layer {attention.layer_number} attends with {type(core).__name__}, not with the operator"
            )
        if list(core.state_dict()):
            raise NotImplementedError(
                f"{list(core.state_dict())} of a core attention with Ulysses is not supported yet"
            )
        if core.slopes is not None:
            raise NotImplementedError("ALiBi with Ulysses is not supported yet")
        attention.core_attention = UlyssesAttention(core, group)
    _place_positions(gpt, dist.get_rank(group))


def _place_positions(gpt: GPTModel, slice_number: int) -> None:
    """Learned positions follow the position ids of the call; a rotary embedding counts from 0 unless it is told."""
    if gpt.position_embedding_type in ("learned_absolute", "none"):
        return
    if gpt.position_embedding_type != "rope":
        kind = gpt.position_embedding_type
        raise NotImplementedError(f"position_embedding_type={kind!r} with Ulysses is not supported")

    def shift(module: torch.nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, Any]:
        return arguments, {**options, "offset": slice_number * arguments[0]}

    gpt.rotary_pos_emb.register_forward_pre_hook(shift, with_kwargs=True)
