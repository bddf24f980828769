"""The norms compute torch's norms, mark their weights, and refuse the variants they do not have."""

import pytest
import torch
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron.norm import LayerNorm, RMSNorm, norm_class
from tests.support.device import DEVICE


def config(**fields) -> TransformerConfig:
    return TransformerConfig(
        **{"num_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "tensor_model_parallel_size": 2, **fields}
    )


@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize(
    ("name", "norm", "plain"), [("LayerNorm", LayerNorm, torch.nn.LayerNorm), ("RMSNorm", RMSNorm, torch.nn.RMSNorm)]
)
def test_a_norm_is_torchs_with_marked_weights(name, norm, plain, sequence_parallel):
    settings = config(normalization=name, sequence_parallel=sequence_parallel)
    assert norm_class(settings) is norm
    ours = norm(config=settings, hidden_size=32, eps=1e-3).to(DEVICE)
    hidden = torch.randn(5, 2, 32, device=DEVICE)
    assert torch.equal(ours(hidden), plain(32, eps=1e-3).to(DEVICE)(hidden))
    assert all(parameter.sequence_parallel is sequence_parallel for parameter in ours.parameters())


def test_an_unknown_norm_is_refused():
    settings = config()
    settings.normalization = "L2Norm"
    with pytest.raises(ValueError, match="normalization='L2Norm' is not one of LayerNorm, RMSNorm"):
        norm_class(settings)


@pytest.mark.parametrize("field", ["layernorm_zero_centered_gamma", "memory_efficient_layer_norm"])
def test_a_fused_variant_is_refused(field):
    with pytest.raises(NotImplementedError, match=f"{field}=True is not supported"):
        norm_class(config(**{field: True}))
