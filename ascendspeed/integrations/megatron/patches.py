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
from ascendspeed.integrations.megatron.plan_memo import PlanMemo
from ascendspeed.integrations.megatron.te_spec import MODULES, announced, spec_provider

__all__ = ["PATCHES", "TESTED"]

TESTED = ">=0.12,<0.17"  # megatron-core


def _becomes_ours(original: Callable[..., None]) -> Callable[..., None]:
    """__init__ of Megatron's attention, after which the object is an AscendDotProductAttention. Not for sub-classes."""
    patched = (original.__module__, original.__qualname__.partition(".")[0])
    plans = PlanMemo()  # of all models of the script, which need not know of each other: it compares by content

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if (type(self).__module__, type(self).__qualname__) != patched:
            original(self, *args, **kwargs)
            return
        self.__class__ = AscendDotProductAttention
        self.__init__(*args, plans=plans, **kwargs)

    return __init__


def _te_becomes_ours(original: Callable[..., None]) -> Callable[..., None]:
    """The same of Transformer Engine's, whose constructor goes on otherwise after softmax_scale: by keyword only."""
    ours = _becomes_ours(original)

    @functools.wraps(original)
    def __init__(
        self: Any,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        *,
        k_channels: int | None = None,
        v_channels: int | None = None,
        num_splits: int | None = None,
        **kwargs: Any,
    ) -> None:
        for name, channels in (("k_channels", k_channels), ("v_channels", v_channels)):
            if channels not in {None, config.kv_channels}:
                raise NotImplementedError(
                    f"{name}={channels} is not supported yet by AscendDotProductAttention; "
                    f"it must be kv_channels={config.kv_channels}"
                )
        if num_splits is not None:
            raise NotImplementedError(
                f"num_splits={num_splits} is not supported by AscendDotProductAttention; the operator divides the keys "
                "itself, leave it out"
            )
        ours(self, config, layer_number, attn_mask_type, attention_type, attention_dropout, softmax_scale, **kwargs)

    return __init__


def _norm_for_sequence_parallelism(original: Callable[..., Any]) -> Any:
    """__new__ of WrappedTorchNorm, which makes no object of its own class."""

    @functools.wraps(original)
    def __new__(cls: type, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any) -> torch.nn.Module:
        return norm_class(config)(config, hidden_size, eps=eps)

    return staticmethod(__new__)


def _given(module: type, _: Any) -> type:
    return module


def _new_enough(_: Any) -> Callable[[str], bool]:
    """is_te_min_version, which would import Transformer Engine to see its version."""

    def is_te_min_version(version: str, **_: Any) -> bool:
        announced()
        return True

    return is_te_min_version


def _nothing_to_quantize(original: Callable[..., None]) -> Callable[..., None]:
    """_quantize_param_shard_impl, which newer releases too leave at once where the list of fp8 parameters is empty."""

    @functools.wraps(original)
    def _quantize_param_shard_impl(model_params: Any, *args: Any, **kwargs: Any) -> None:
        if model_params:
            original(model_params, *args, **kwargs)

    return _quantize_param_shard_impl


_GPT_SPECS = "megatron.core.models.gpt.gpt_layer_specs"

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
        with_te=True,
    ),
    Patch(
        "megatron.core.transformer.torch_norm:WrappedTorchNorm.__new__",
        _norm_for_sequence_parallelism,
        "torch's norms with the mark that sequence parallelism needs, instead of a refusal",
        TESTED,
    ),
    Patch(
        f"{_GPT_SPECS}:TESpecProvider",
        lambda _: spec_provider(),
        "a Transformer Engine spec of GPT without Transformer Engine: Megatron's own modules",
        ">=0.13,<0.17",
        with_te=False,
        adds=True,
    ),
    Patch(
        f"{_GPT_SPECS}:TENorm",
        functools.partial(_given, MODULES["TENorm"]),
        "the same, after the last layer",
        ">=0.13,<0.17",
        with_te=False,
        adds=True,
    ),
    *(
        Patch(
            f"{_GPT_SPECS}:{name}",
            functools.partial(_given, module),
            "a Transformer Engine spec of GPT without Transformer Engine: Megatron's own modules",
            ">=0.12,<0.13",
            with_te=False,
            adds=True,
        )
        for name, module in MODULES.items()
    ),
    Patch(
        f"{_GPT_SPECS}:is_te_min_version",
        _new_enough,
        "the same: it would import Transformer Engine",
        ">=0.12,<0.13",
        with_te=False,
    ),
    Patch(
        "megatron.core.fp8_utils:_quantize_param_shard_impl",
        _nothing_to_quantize,
        "the distributed optimizer without Transformer Engine: it refuses to quantize no parameter at all",
        ">=0.12,<0.13",
        with_te=False,
    ),
)
