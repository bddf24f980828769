"""LayerNorm and RMSNorm whose weights Megatron recognises under sequence parallelism, apex's where they work.

Without Transformer Engine and apex megatron-core has torch's norms, which refuse sequence parallelism. All they lack is
the mark ``sequence_parallel`` on their weights: with it ``finalize_model_grads`` sums their gradients over the
tensor-parallel ranks, each of which has seen a part of the sequence only.
"""

from __future__ import annotations

import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed import device as devices
from ascendspeed.integrations import apex

__all__ = ["LayerNorm", "RMSNorm", "norm_class"]


class LayerNorm(torch.nn.LayerNorm):
    """torch.nn.LayerNorm over the last dim, constructed the way Megatron constructs norms."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps)
        _mark_sequence_parallel(self, config)


class RMSNorm(torch.nn.RMSNorm):
    """torch.nn.RMSNorm over the last dim, constructed the way Megatron constructs norms."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__(hidden_size, eps=eps)
        _mark_sequence_parallel(self, config)


def norm_class(config: TransformerConfig) -> type[torch.nn.Module]:
    """The norm that config.normalization asks for.

    Raises:
        ValueError: config.normalization is neither "LayerNorm" nor "RMSNorm".
        UnrelatedApexError: a package apex is installed that is neither NVIDIA's nor Ascend's.
        NotImplementedError: a variant that only Transformer Engine or apex has: layernorm_zero_centered_gamma,
            memory_efficient_layer_norm. persist_layer_norm names a kernel of apex's and means nothing here.
    """
    for field in ("layernorm_zero_centered_gamma", "memory_efficient_layer_norm"):
        if getattr(config, field):
            raise NotImplementedError(f"{field}=True is not supported by the norms of the layer spec; it must be False")
    norms: dict[str, type[torch.nn.Module]] = {"LayerNorm": LayerNorm, "RMSNorm": RMSNorm}
    if config.normalization not in norms:
        raise ValueError(f"normalization={config.normalization!r} is not one of {', '.join(norms)}")
    if apex.find() is None:
        return norms[config.normalization]
    fused = apex.choose_norm(config.normalization, devices.current().current_device())
    return norms[config.normalization] if fused is None else _for_megatron(fused)


def _for_megatron(fused: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """apex's norm, constructed the way Megatron constructs norms."""

    class Fused(fused):  # type: ignore[misc, valid-type]
        def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5) -> None:
            super().__init__(hidden_size, eps=eps)
            _mark_sequence_parallel(self, config)

    Fused.__name__ = Fused.__qualname__ = fused.__name__
    return Fused


def _mark_sequence_parallel(norm: torch.nn.Module, config: TransformerConfig) -> None:
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
