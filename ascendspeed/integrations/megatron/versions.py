"""Where the releases of megatron-core that we work with, 0.12 to 0.16, differ. Nothing else asks for a version."""

from __future__ import annotations

import inspect
from typing import Any

from megatron.core import parallel_state
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig

__all__ = [
    "layer_window",
    "mask_type",
    "num_layers_to_build",
    "setting",
    "tensor_parallel_rank",
    "tensor_parallel_size",
]


def setting(config: TransformerConfig, field: str) -> Any:
    """A field; in a release that does not have it yet it is what makes newer ones do what the older do."""
    return getattr(config, field) if hasattr(config, field) else _ABSENT[field]


_ABSENT = {
    "batch_invariant_mode": False,  # since 0.16
    "log_max_attention_logit": False,  # since 0.16
    "qk_clip": False,  # since 0.16
    "softmax_type": "vanilla",  # since 0.15
    "window_attn_skip_freq": None,  # since 0.15
}


def mask_type(mask: str) -> AttnMaskType:
    """Megatron's type for one of MASK_KINDS. It has none for a prefix; "arbitrary" is its word for what it cannot name.

    Raises:
        NotImplementedError: this release does not have the type: "causal_bottom_right" came with 0.15.
    """
    name = "arbitrary" if mask == "prefix" else mask
    if name not in AttnMaskType.__members__:
        raise NotImplementedError(f"mask={mask!r} needs a newer megatron-core; AttnMaskType of this one has no {name}")
    return AttnMaskType[name]


def tensor_parallel_size(process_groups: Any) -> int:
    """Ranks that share the heads: of the groups a layer is built with, or of parallel_state.

    Layers are given none in 0.12, ModelCommProcessGroups in 0.13 and 0.14, ProcessGroupCollection since.
    """
    if process_groups is None:
        return int(parallel_state.get_tensor_model_parallel_world_size())
    return int(process_groups.tp.size())


def tensor_parallel_rank(process_groups: Any) -> int:
    """This rank among those that share the heads, as `tensor_parallel_size` finds them."""
    if process_groups is None:
        return int(parallel_state.get_tensor_model_parallel_rank())
    return int(process_groups.tp.rank())


def layer_window(config: TransformerConfig, layer_number: int) -> tuple[int, int] | None:
    """The window of a layer (counted from 1), None if it sees everything. Before 0.15 every layer has the window."""
    if config.window_size is None:
        return None
    skip = setting(config, "window_attn_skip_freq")
    if isinstance(skip, int):
        windowed = layer_number % skip != 0
    else:
        windowed = True if skip is None else bool(skip[layer_number - 1])
    left, right = config.window_size
    return (left, right) if windowed else None


def num_layers_to_build(config: TransformerConfig, vp_stage: int | None, pp_rank: int | None) -> int:
    """Layers of a pipeline stage.

    Raises:
        NotImplementedError: a stage is named that this release, which knows its own only, cannot tell.
    """
    stage = {"vp_stage": vp_stage, "pp_rank": pp_rank}
    known = inspect.signature(get_num_layers_to_build).parameters
    unknown = [f"{name}={value}" for name, value in stage.items() if value is not None and name not in known]
    if unknown:
        raise NotImplementedError(
            f"{', '.join(unknown)} needs a newer megatron-core; this one knows its own stage only"
        )
    return int(get_num_layers_to_build(config, **{name: value for name, value in stage.items() if name in known}))
