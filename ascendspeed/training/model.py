"""From the settings to this rank's part of megatron-core's GPTModel with our attention, ready for its schedules.

A pipeline stage holds one model chunk, or several that are spread over the model (interleaving). Each is wrapped in
megatron-core's DistributedDataParallel, which owns the gradient buffers.
"""

from collections.abc import Callable
from typing import Any

import torch
from megatron.core import parallel_state
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
from ascendspeed.training.masks import mask_kind

__all__ = ["build", "build_chunk", "transformer_config", "with_buffers"]


def build(run: RunConfig, device: Device, vocab_size: int) -> list[DistributedDataParallel]:
    """This rank's model chunks in the order of their layers; vocab_size is the tokenizer's, before padding."""
    config = transformer_config(run)
    # A stage's output is freed once it is sent, when interleaved while it is being sent: a card keeps memory that a
    # stream still reads; gloo does not and sends what lies there by then.
    config.deallocate_pipeline_outputs = run.parallel.pipeline_model_parallel_size > 1 and (
        run.virtual_stages == 1 or device.name != "cpu"
    )
    modules: list[torch.nn.Module] = []
    for chunk in range(run.virtual_stages):
        gpt = build_chunk(run, config, vocab_size, chunk).to(device.current_device())
        modules.append(Float16Module(config, gpt) if run.model.bf16 else gpt)
    chunks = with_buffers(run, config, modules)
    for chunk in chunks:
        chunk.broadcast_params()
    _tell_the_schedule(config, chunks)
    return chunks


def with_buffers(
    run: RunConfig, config: TransformerConfig, modules: list[torch.nn.Module]
) -> list[DistributedDataParallel]:
    """This rank's model chunks with their gradient buffers, and with buffers of weights for a distributed optimizer."""
    p = run.parallel
    buffers = DistributedDataParallelConfig(
        grad_reduce_in_fp32=not p.grad_reduce_in_bf16,
        overlap_grad_reduce=p.overlap_grad_reduce,
        overlap_param_gather=p.overlap_param_gather,
        align_param_gather=p.overlap_param_gather and run.virtual_stages > 1,
        use_distributed_optimizer=p.use_distributed_optimizer,
        bucket_size=p.ddp_bucket_size,
    )
    # The reduction of every chunk but the first one is hidden behind the chunks before it: one bucket is enough.
    return [
        DistributedDataParallel(config, buffers, module, disable_bucketing=index > 0)
        for index, module in enumerate(modules)
    ]


def build_chunk(run: RunConfig, config: TransformerConfig, vocab_size: int, chunk: int = 0) -> GPTModel:
    """Model chunk number `chunk`, 0 to run.virtual_stages - 1, of this rank's pipeline stage, without gradient buffers.

    The first chunk of the first stage has the embedding, the last one of the last stage the output layer; with tied
    embeddings it has the weights of the former again, and both stages call at the same time. parallel_state says
    which stage this is. Parameters are where megatron-core makes them: torch.device("meta") as context and
    `config.use_cpu_initialization` give a model that can be counted but not computed.
    """
    interleaved = run.virtual_stages > 1
    stage, last_stage = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size() - 1,
    )
    vp_stage = chunk if interleaved else None
    alibi = run.model.position_embedding_type == "alibi"
    return GPTModel(
        config,
        get_gpt_layer_spec(config, mask=mask_kind(run), alibi=alibi, vp_stage=vp_stage),
        vocab_size=padded_vocab_size(vocab_size, run),
        max_sequence_length=run.model.max_position_embeddings,
        pre_process=stage == 0 and chunk == 0,
        post_process=stage == last_stage and chunk == run.virtual_stages - 1,
        share_embeddings_and_output_weights=not run.model.untie_embeddings_and_output_weights,
        position_embedding_type="none" if alibi else run.model.position_embedding_type,
        rotary_percent=run.model.rotary_percent,
        rotary_base=run.model.rotary_base,
        vp_stage=vp_stage,
    )


def _tell_the_schedule(config: TransformerConfig, chunks: list[DistributedDataParallel]) -> None:
    """Give megatron-core's schedules what they call between forward and backward passes; one chunk is no list."""

    def one_or_all(functions: list[Callable[..., Any]]) -> Any:
        return functions[0] if len(functions) == 1 else functions

    ddp = chunks[0].ddp_config
    config.finalize_model_grads_func = finalize_model_grads
    config.no_sync_func = one_or_all([chunk.no_sync for chunk in chunks])
    if ddp.overlap_grad_reduce:
        config.grad_sync_func = one_or_all([chunk.start_grad_sync for chunk in chunks])
    if ddp.align_param_gather:
        config.param_sync_func = one_or_all([chunk.start_param_sync for chunk in chunks])


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
        window_size=m.window_size,
        window_attn_skip_freq=list(skips) if isinstance(skips := m.window_attn_skip_freq, tuple) else skips,
        attention_dropout=m.attention_dropout,
        hidden_dropout=m.hidden_dropout,
        init_method_std=m.init_method_std,
        use_cpu_initialization=m.use_cpu_initialization,
        bf16=m.bf16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=run.parallel.tensor_model_parallel_size,
        sequence_parallel=run.parallel.sequence_parallel,
        pipeline_model_parallel_size=run.parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=run.virtual_stages if run.virtual_stages > 1 else None,
        # As Megatron-LM: sending overlaps with computing in the interleaved schedule alone.
        overlap_p2p_comm=run.virtual_stages > 1,
        batch_p2p_comm=run.virtual_stages == 1,
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
