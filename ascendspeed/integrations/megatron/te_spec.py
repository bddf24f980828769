"""What a Transformer Engine spec is made of where Megatron loads no Transformer Engine: Megatron's own modules.

TE's layers join a norm with the linear layer after it. Here that is the norm and then Megatron's ColumnParallelLinear,
under the names that TE gives the weights, so that checkpoints are interchangeable.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn import functional

from ascendspeed.integrations.megatron.norm import norm_class

__all__ = ["MODULES", "NormColumnParallelLinear", "announced", "spec_provider"]


class NormColumnParallelLinear(ColumnParallelLinear):
    """config.normalization over the last dim, then ColumnParallelLinear; built with the latter's arguments.

    layer_norm_weight, layer_norm_bias: [input_size], whole on every rank; RMSNorm has no bias.
    """

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig, **kwargs: Any) -> None:
        super().__init__(input_size, output_size, config=config, **kwargs)
        norm = norm_class(config)(config, input_size, eps=config.layernorm_epsilon)
        norm.to(device=self.weight.device, dtype=config.params_dtype)
        parameters = dict(norm.named_parameters())
        self.layer_norm_weight = parameters["weight"]
        self.layer_norm_bias = parameters.get("bias")

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """[s, b, input_size] -> ([s, b, output_size of this rank], the bias if it is not added here)"""
        sizes, eps = input_.shape[-1:], self.config.layernorm_epsilon
        if self.config.normalization == "RMSNorm":
            normed = functional.rms_norm(input_, sizes, self.layer_norm_weight, eps)
        else:
            normed = functional.layer_norm(input_, sizes, self.layer_norm_weight, self.layer_norm_bias, eps)
        output: tuple[Tensor, Tensor | None] = super().forward(normed, *args, **kwargs)
        return output


# By the names that Megatron imports from its Transformer Engine extension.
MODULES: dict[str, type] = {
    "TENorm": WrappedTorchNorm,
    "TEDotProductAttention": DotProductAttention,
    "TEColumnParallelLinear": ColumnParallelLinear,
    "TELayerNormColumnParallelLinear": NormColumnParallelLinear,
    "TERowParallelLinear": RowParallelLinear,
}


@functools.cache
def announced() -> None:
    """Say once what a Transformer Engine spec has become."""
    warnings.warn(
        "Megatron has no Transformer Engine that loads: its layer specs are built from Megatron's own modules",
        stacklevel=3,
    )


def spec_provider() -> type:
    """The class that megatron-core since 0.13 asks for the modules of a Transformer Engine spec."""
    from megatron.core.models.backends import LocalSpecProvider  # not in 0.12

    class SpecProvider(LocalSpecProvider):
        def __init__(self) -> None:
            announced()

        def linear(self) -> type:
            raise NotImplementedError("multi_latent_attention=True is not supported yet without Transformer Engine")

        def fuse_layernorm_and_linear(self) -> bool:
            return True

        def column_parallel_layer_norm_linear(self) -> type:
            return NormColumnParallelLinear

        def layer_norm(self, rms_norm: bool = False, for_qk: bool = False, **_: Any) -> type:
            return MODULES["TENorm"]

    return SpecProvider
