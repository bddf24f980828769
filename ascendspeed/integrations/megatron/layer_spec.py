"""The layer spec that puts the operator into megatron-core's GPT model. Assembles modules; computes nothing.

Everything but the core attention and the norms is megatron-core's own: SelfAttention, ColumnParallelLinear,
RowParallelLinear, MLP. ``LocalSpecProvider`` would give the same, but its norms refuse sequence parallelism.
"""

from __future__ import annotations

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.heads import local_heads
from ascendspeed.integrations.megatron.norm import norm_class
from ascendspeed.integrations.megatron.plan_memo import PlanMemo
from ascendspeed.integrations.megatron.refusals import check_masks
from ascendspeed.integrations.megatron.versions import mask_type, num_layers_to_build

__all__ = ["get_gpt_layer_spec"]


def get_gpt_layer_spec(
    config: TransformerConfig,
    *,
    mask: str = "causal",
    alibi: bool = False,
    core_attention: type[torch.nn.Module] = AscendDotProductAttention,
    vp_stage: int | None = None,
    pp_rank: int | None = None,
) -> ModuleSpec:
    """The spec to hand to GPTModel: layers with our attention, and norms that know sequence parallelism.

    It describes the whole block of this pipeline stage, because the norm after the last layer is the block's; the spec
    of one layer is ``spec.submodules.layer_specs[0]``.

    Args:
        config: the model. Read here: normalization, qk_layernorm, num_layers and the pipeline fields.
        mask: what each position may attend to: the name of an AttnMaskType, or "prefix". docs/megatron.md says what
            each expects as attention_mask; "causal" expects None, "prefix" an int64 tensor of one length per sample.
            A window comes from config.window_size and config.window_attn_skip_freq.
        alibi: position by ALiBi's slopes in every layer; GPTModel then gets position_embedding_type="none".
        core_attention: the core attention module; Megatron's own DotProductAttention fits too.
        vp_stage, pp_rank: as in Megatron's get_gpt_decoder_block_spec; None reads parallel_state.

    Raises:
        ValueError: mask or config.normalization is not one we know; heads, groups and ranks do not divide; the mask
            cannot have the config's window; alibi with a core_attention that has none.
        NotImplementedError: config asks for experts, multi-latent attention or fused norms; this megatron-core does not
            know the mask.
    """
    check_masks(config, mask)
    if config.num_moe_experts is not None:
        raise NotImplementedError(f"num_moe_experts={config.num_moe_experts} is not supported yet: dense layers only")
    if config.multi_latent_attention:
        raise NotImplementedError("multi_latent_attention=True is not supported yet")
    local_heads(config.num_attention_heads, config.num_query_groups, config.tensor_model_parallel_size)  # or refuses
    norm = norm_class(config)
    params: dict[str, object] = {}
    if issubclass(core_attention, AscendDotProductAttention):
        params = {"mask": mask, "alibi": alibi, "plans": PlanMemo()}
    elif alibi:
        raise ValueError(f"alibi=True: core_attention={core_attention.__name__} has no ALiBi")
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": mask_type(mask)},
        submodules=SelfAttentionSubmodules(
            linear_qkv=ColumnParallelLinear,
            core_attention=ModuleSpec(module=core_attention, params=params),
            linear_proj=RowParallelLinear,
            q_layernorm=norm if config.qk_layernorm else IdentityOp,
            k_layernorm=norm if config.qk_layernorm else IdentityOp,
        ),
    )
    mlp = ModuleSpec(
        module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
    )
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
            # the names Transformer Engine's fused layers give these weights: checkpoints stay interchangeable
            sharded_state_dict_keys_map={
                "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
                "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
            },
        ),
    )
    layers = num_layers_to_build(config, vp_stage, pp_rank)
    return ModuleSpec(
        module=TransformerBlock, submodules=TransformerBlockSubmodules(layer_specs=[layer] * layers, layer_norm=norm)
    )
