"""What of a TransformerConfig the attention cannot express: refused when the model is built, by field and value."""

from __future__ import annotations

from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron.masks import MASK_KINDS, check_window
from ascendspeed.integrations.megatron.versions import setting

__all__ = ["check_masks", "refuse_what_is_missing"]


_ONLY = {
    "context_parallel_size": 1,
    "multi_latent_attention": False,
    "softmax_type": "vanilla",
    "qk_clip": False,
    "log_max_attention_logit": False,
    "fp8_dot_product_attention": False,
    "fp8_multi_head_attention": False,
    "flash_decode": False,
    "batch_invariant_mode": False,
}


def refuse_what_is_missing(config: TransformerConfig) -> None:
    """NotImplementedError for a field that asks for something the attention does not do yet."""
    for field, only in _ONLY.items():
        value = setting(config, field)
        if value != only:
            raise NotImplementedError(
                f"{field}={value!r} is not supported yet by AscendDotProductAttention; it must be {only!r}"
            )


def check_masks(config: TransformerConfig, mask: str) -> None:
    """ValueError if no layer, or not every windowed one, of this config can have the mask of this name."""
    if mask not in MASK_KINDS:
        raise ValueError(f"mask={mask!r} is not one of {', '.join(MASK_KINDS)}")
    if config.window_size is not None:
        check_window(tuple(config.window_size), mask)
    skips = setting(config, "window_attn_skip_freq")
    if skips is None:
        return
    if config.window_size is None:
        raise ValueError(f"window_attn_skip_freq={skips} has no effect without window_size")
    if isinstance(skips, list) and len(skips) != config.num_layers:
        raise ValueError(
            f"window_attn_skip_freq={skips} has {len(skips)} entries for num_layers={config.num_layers}: one per layer"
        )
    if isinstance(skips, int) and skips < 1:
        raise ValueError(f"window_attn_skip_freq={skips} is less than 1: every how many layers one has no window")
