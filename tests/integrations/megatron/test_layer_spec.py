"""The layer spec: our attention and norms in every layer, Megatron's modules elsewhere, refusals by field."""

import enum

import pytest
import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron import AscendDotProductAttention, get_gpt_layer_spec, versions
from ascendspeed.integrations.megatron.masks import MASK_KINDS
from ascendspeed.integrations.megatron.norm import LayerNorm, RMSNorm


def config(**fields) -> TransformerConfig:
    return TransformerConfig(**{"num_layers": 3, "hidden_size": 32, "num_attention_heads": 4, **fields})


def layer(**fields):
    return get_gpt_layer_spec(config(**fields), pp_rank=0).submodules.layer_specs[0].submodules


@pytest.mark.parametrize("mask", MASK_KINDS)
def test_every_mask_reaches_the_attention(mask):
    attention = get_gpt_layer_spec(config(), mask=mask, pp_rank=0).submodules.layer_specs[0].submodules.self_attention
    assert attention.submodules.core_attention.module is AscendDotProductAttention
    params = attention.submodules.core_attention.params
    assert (params["mask"], params["alibi"]) == (mask, False)
    expected = AttnMaskType.arbitrary if mask == "prefix" else AttnMaskType[mask]
    assert attention.params == {"attn_mask_type": expected}


def test_only_attention_and_norms_differ_from_megatrons_local_spec():
    """Field by field: whatever else Megatron's own spec has, ours has."""
    ours, megatrons = layer(), get_gpt_layer_local_spec().submodules
    differing = {name for name, value in vars(megatrons).items() if getattr(ours, name) != value}
    assert differing == {"input_layernorm", "self_attention", "pre_mlp_layernorm"}
    inner, inner_megatrons = ours.self_attention.submodules, megatrons.self_attention.submodules
    differing = {name for name, value in vars(inner_megatrons).items() if getattr(inner, name) != value}
    assert differing == {"core_attention"}


def test_the_norms_are_ours_in_the_layers_and_after_the_last():
    for name, norm in (("LayerNorm", LayerNorm), ("RMSNorm", RMSNorm)):
        block = get_gpt_layer_spec(config(normalization=name), pp_rank=0).submodules
        assert block.layer_norm is norm
        assert {spec.submodules.input_layernorm for spec in block.layer_specs} == {norm}
    assert layer().self_attention.submodules.q_layernorm is IdentityOp
    assert layer(qk_layernorm=True).self_attention.submodules.q_layernorm is LayerNorm


def test_a_pipeline_stage_has_its_own_layers():
    settings = config(num_layers=4, pipeline_model_parallel_size=2, pipeline_dtype=torch.float32)
    assert len(get_gpt_layer_spec(settings, pp_rank=1).submodules.layer_specs) == 2


def test_megatrons_attention_fits_too():
    spec = get_gpt_layer_spec(config(), core_attention=DotProductAttention, pp_rank=0)
    core = spec.submodules.layer_specs[0].submodules.self_attention.submodules.core_attention
    assert (core.module, core.params) == (DotProductAttention, {})


def test_an_unknown_mask_is_refused():
    with pytest.raises(ValueError, match="mask='diagonal' is not one of no_mask, causal"):
        get_gpt_layer_spec(config(), mask="diagonal", pp_rank=0)


def test_a_mask_that_an_older_release_does_not_know_is_refused(monkeypatch):
    older = enum.Enum("AttnMaskType", [name for name in AttnMaskType.__members__ if name != "causal_bottom_right"])
    monkeypatch.setattr(versions, "AttnMaskType", older)
    with pytest.raises(NotImplementedError, match="mask='causal_bottom_right' needs a newer megatron-core"):
        get_gpt_layer_spec(config(), mask="causal_bottom_right", pp_rank=0)


def test_experts_and_latent_attention_are_refused():
    with pytest.raises(NotImplementedError, match="num_moe_experts=4 is not supported yet"):
        get_gpt_layer_spec(config(num_moe_experts=4), pp_rank=0)
    latent = config()
    latent.multi_latent_attention = True
    with pytest.raises(NotImplementedError, match="multi_latent_attention=True is not supported yet"):
        get_gpt_layer_spec(latent, pp_rank=0)


def test_heads_that_do_not_divide_are_refused_before_anything_is_built():
    settings = config(num_query_groups=2)
    settings.tensor_model_parallel_size = 3  # past megatron's own check
    with pytest.raises(ValueError, match="tensor_model_parallel_size=3 does not divide num_attention_heads=4"):
        get_gpt_layer_spec(settings, pp_rank=0)
