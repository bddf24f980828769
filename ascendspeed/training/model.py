"""From the settings to megatron-core's GPTModel with our attention, inside megatron-core's DistributedDataParallel."""

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch.nn import functional as F

from ascendspeed.device import Device
from ascendspeed.integrations.megatron import get_gpt_layer_spec
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.data import padded_vocab_size

__all__ = ["build", "transformer_config"]


def build(run: RunConfig, device: Device, vocab_size: int) -> DistributedDataParallel:
    """This rank's shard of the model with its gradient buffers; vocab_size is the tokenizer's, before padding."""
    config = transformer_config(run)
    gpt = GPTModel(
        config,
        get_gpt_layer_spec(config, mask="causal"),
        vocab_size=padded_vocab_size(vocab_size, run),
        max_sequence_length=run.model.max_position_embeddings,
        share_embeddings_and_output_weights=not run.model.untie_embeddings_and_output_weights,
        position_embedding_type=run.model.position_embedding_type,
        rotary_percent=run.model.rotary_percent,
        rotary_base=run.model.rotary_base,
    ).to(device.current_device())
    module = Float16Module(config, gpt) if run.model.bf16 else gpt
    model = DistributedDataParallel(
        config,
        DistributedDataParallelConfig(grad_reduce_in_fp32=True),
        module,
    )
    model.broadcast_params()
    config.finalize_model_grads_func = finalize_model_grads
    config.no_sync_func = model.no_sync
    return model


def transformer_config(run: RunConfig) -> TransformerConfig:
    """megatron-core's configuration of the transformer. Its fused CUDA kernels are off: they are not there."""
    m = run.model
    dtype = torch.bfloat16 if m.bf16 else torch.float32
    return TransformerConfig(
        num_layers=m.num_layers,
        hidden_size=m.hidden_size,
        ffn_hidden_size=m.mlp_width,
        num_attention_heads=m.num_attention_heads,
        num_query_groups=m.query_groups,
        kv_channels=m.kv_channels,
        normalization=m.normalization,
        layernorm_epsilon=m.norm_epsilon,
        gated_linear_unit=m.swiglu,
        activation_func=F.silu if m.swiglu else F.gelu,
        add_bias_linear=not m.disable_bias_linear,
        add_qkv_bias=m.add_qkv_bias,
        qk_layernorm=m.qk_layernorm,
        attention_dropout=m.attention_dropout,
        hidden_dropout=m.hidden_dropout,
        init_method_std=m.init_method_std,
        use_cpu_initialization=m.use_cpu_initialization,
        bf16=m.bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=run.parallel.tensor_model_parallel_size,
        sequence_parallel=run.parallel.sequence_parallel,
        recompute_granularity=m.recompute_granularity,
        recompute_method=m.recompute_method,
        recompute_num_layers=m.recompute_num_layers,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
    )
