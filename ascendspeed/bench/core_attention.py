"""The core attentions a GPT is timed with: ours, megatron-core's, and torch's in the same place."""

from typing import Any

import torch
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SdpaAttention", "core_attentions", "put"]

# sq query length, b batch, np query heads and ng key/value groups of this rank, hn head size


class SdpaAttention(MegatronModule):
    """torch's scaled_dot_product_attention as a core attention: causal, without dropout, and no more than that."""

    def __init__(
        self, config: TransformerConfig, layer_number: int, attn_mask_type: AttnMaskType, attention_type: str
    ) -> None:
        super().__init__(config=config)
        if attn_mask_type != AttnMaskType.causal or config.attention_dropout != 0:
            raise NotImplementedError(
                f"{attn_mask_type}, attention_dropout={config.attention_dropout}: only causal without dropout"
            )

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """query [sq, b, np, hn], key and value [sq, b, ng, hn] -> [sq, b, np * hn]"""
        query, key, value = (t.permute(1, 2, 0, 3) for t in (query, key, value))
        grouped = query.shape[1] != key.shape[1]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
        return out.permute(2, 0, 1, 3).flatten(2)


_CLASSES = {"dense": DotProductAttention, "sdpa": SdpaAttention}


def put(name: str, model: torch.nn.Module) -> None:
    """Make the attention of every layer the one called `name`; a model is built with "ours". None has parameters."""
    if name == "ours":
        return
    for attention in _self_attentions(model):
        attention.core_attention = _CLASSES[name](attention.config, attention.layer_number, AttnMaskType.causal, "self")


def core_attentions(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The core attention of every layer, in order."""
    return [attention.core_attention for attention in _self_attentions(model)]


def _self_attentions(model: torch.nn.Module) -> list[SelfAttention]:
    return [module for module in model.modules() if isinstance(module, SelfAttention)]
