"""PATCHES: every attribute of Megatron that the adaptor replaces. Nothing is applied here.

Attention and norms are replaced where their objects are made, in ``__init__`` and ``__new__`` of Megatron's classes:
every spec that names those classes gets ours, whoever wrote it and whenever the class was imported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.norm import norm_class
from ascendspeed.integrations.megatron.patch import Patch

__all__ = ["PATCHES", "TESTED"]

TESTED = ">=0.12,<0.17"  # megatron-core


def _becomes_ours(original: Callable[..., None]) -> Callable[..., None]:
    """__init__ of Megatron's attention, after which the object is an AscendDotProductAttention. Not for sub-classes."""
    patched = (original.__module__, original.__qualname__.partition(".")[0])

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if (type(self).__module__, type(self).__qualname__) != patched:
            original(self, *args, **kwargs)
            return
        self.__class__ = AscendDotProductAttention
        self.__init__(*args, **kwargs)

    return __init__


def _te_becomes_ours(original: Callable[..., None]) -> Callable[..., None]:
    """The same of Transformer Engine's, which takes the sizes of keys and values, and a number of splits, besides."""
    ours = _becomes_ours(original)

    @functools.wraps(original)
    def __init__(
        self: Any,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        *args: Any,
        k_channels: int | None = None,
        v_channels: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, channels in (("k_channels", k_channels), ("v_channels", v_channels)):
            if channels not in {None, config.kv_channels}:
                raise NotImplementedError(
                    f"{name}={channels} is not supported yet by AscendDotProductAttention; "
                    f"it must be kv_channels={config.kv_channels}"
                )
        ours(self, config, layer_number, attn_mask_type, attention_type, *args, **kwargs)

    return __init__


def _norm_for_sequence_parallelism(original: Callable[..., Any]) -> Any:
    """__new__ of WrappedTorchNorm, which makes no object of its own class."""

    @functools.wraps(original)
    def __new__(cls: type, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.Module:
        return norm_class(config)(config, hidden_size, eps=eps)

    return staticmethod(__new__)


PATCHES: tuple[Patch, ...] = (
    Patch(
        "megatron.core.transformer.dot_product_attention:DotProductAttention.__init__",
        _becomes_ours,
        "the fused operator is the attention of every spec with Megatron's own",
        TESTED,
    ),
    Patch(
        "megatron.core.extensions.transformer_engine:TEDotProductAttention.__init__",
        _te_becomes_ours,
        "the fused operator is the attention of every spec with Transformer Engine's",
        TESTED,
        needs="transformer_engine",
    ),
    Patch(
        "megatron.core.transformer.torch_norm:WrappedTorchNorm.__new__",
        _norm_for_sequence_parallelism,
        "torch's norms with the mark that sequence parallelism needs, instead of a refusal",
        TESTED,
    ),
)
