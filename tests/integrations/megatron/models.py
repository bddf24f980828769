"""Tiny GPT models with known weights, trained for one step: what the agreement tests compare.

Every weight and bias is drawn by the name of its parameter and cut for the rank, so the model is the same whatever the
number of ranks; gradients are those Megatron's own DDP and finalize_model_grads leave in main_grad, put together again.
"""

import zlib
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker, model_parallel_cuda_manual_seed
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ascendspeed import device as devices
from ascendspeed.device import cuda_shim
from ascendspeed.integrations.megatron import AscendDotProductAttention, get_gpt_layer_spec
from tests.integrations.megatron import mask_batches
from tests.integrations.megatron.dense_attention import DenseAttention
from tests.integrations.megatron.mask_batches import LENGTH

__all__ = ["LENGTH", "Case", "Step", "draw_seeds", "initialize", "one_step", "step_of_each"]

LAYERS, HIDDEN, VOCAB, BATCH, MICROBATCHES = 2, 64, 96, 2, 2


@dataclass(frozen=True)
class Case:
    """One model and the way it is computed."""

    mask: str = "causal"  # the name of an AttnMaskType, or "prefix"
    groups: int = 4  # key/value heads, of 4 query heads
    dtype: torch.dtype = torch.float32
    ours: bool = True  # False: Megatron's DotProductAttention, with a dense mask
    ranks: int = 1  # tensor-parallel
    sequence_parallel: bool = False
    normalization: str = "LayerNorm"
    recompute: str | None = None  # "full" or "selective"
    dropout: float = 0.0  # of the attention
    window: tuple[int, int] | None = None
    interleaved: bool = False  # every second layer is without the window
    packed: bool = False  # several documents in a sample
    positions: str = "rope"  # or "learned_absolute", "alibi"

    def on(self, ranks: int, sequence_parallel: bool = False) -> "Case":
        return replace(self, ranks=ranks, sequence_parallel=sequence_parallel)


@dataclass(frozen=True)
class Step:
    """Mean loss of the micro-batches, and the whole model's weights and gradients (float32) by parameter name."""

    loss: float
    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]


def step_of_each(cases: list[Case]) -> list[Step]:
    """On every rank of a world: one step of each case. All cases have as many ranks as the world."""
    initialize()
    return [one_step(case) for case in cases]


def draw_seeds(sequence_parallel: tuple[bool, ...]) -> list[int]:
    """On every rank: the dropout seed its core attention draws in a block with and without sequence parallelism."""
    initialize()
    seeds = []
    for parallel in sequence_parallel:
        model_parallel_cuda_manual_seed(1)
        config = _config(Case(ranks=dist.get_world_size(), sequence_parallel=parallel, dropout=0.3))
        attention = AscendDotProductAttention(config, 1, AttnMaskType.causal, "self")
        with get_cuda_rng_tracker().fork() if parallel else nullcontext():  # as TransformerBlock.forward does
            seeds.append(attention._dropout_seed(torch.empty(0, device=devices.current().current_device())))
    return seeds


def initialize() -> None:
    """Megatron on the selected device, with all ranks of the world tensor-parallel and its generators seeded."""
    cuda_shim.install(devices.current())
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=dist.get_world_size())
    model_parallel_cuda_manual_seed(1)


def one_step(case: Case) -> Step:
    """Forward and backward of the micro-batches through Megatron's schedule."""
    model_parallel_cuda_manual_seed(1)  # the generators of every case begin alike
    config = _config(case)
    # Megatron's own is given a dense mask for all but the causal triangle, which it makes itself, as it makes the
    # windows of interleaved layers: those differ from layer to layer, and a mask is every layer's.
    spec = get_gpt_layer_spec(config, mask=case.mask, alibi=case.positions == "alibi")
    if not case.ours:
        kind = "causal" if _megatron_masks(case) else "arbitrary"
        spec = get_gpt_layer_spec(config, mask=kind, core_attention=DenseAttention)
    gpt = GPTModel(
        config,
        spec,
        vocab_size=VOCAB,
        max_sequence_length=LENGTH,
        position_embedding_type="none" if case.positions == "alibi" else case.positions,
        share_embeddings_and_output_weights=False,
    ).to(devices.current().current_device())
    if not case.ours:
        for layer in gpt.decoder.layers:
            if case.positions == "alibi":
                layer.self_attention.core_attention.add_alibi()
            if case.dropout:
                layer.self_attention.core_attention.drop_by_the_operators_bits(case.dropout)
    weights = _set_weights(gpt)
    module = Float16Module(config, gpt) if config.bf16 else gpt
    model = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), module)
    config.finalize_model_grads_func = finalize_model_grads
    model.zero_grad_buffer()
    losses = get_forward_backward_func()(
        forward_step_func=lambda batches, chunk: _forward(next(batches), chunk, case),
        data_iterator=iter(_batches()),
        model=[model],
        num_microbatches=MICROBATCHES,
        seq_length=LENGTH,
        micro_batch_size=BATCH,
        forward_only=False,
    )
    gradients = {name: _whole(p, p.main_grad) for name, p in gpt.named_parameters()}
    return Step(sum(x.item() for x in losses) / MICROBATCHES, weights, gradients)


def _config(case: Case) -> TransformerConfig:
    return TransformerConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=4,
        num_query_groups=case.groups,
        add_qkv_bias=True,
        normalization=case.normalization,
        tensor_model_parallel_size=case.ranks,
        sequence_parallel=case.sequence_parallel,
        params_dtype=case.dtype,
        bf16=case.dtype == torch.bfloat16,
        attention_dropout=case.dropout,
        hidden_dropout=0.0,
        masked_softmax_fusion=False,
        attention_softmax_in_fp32=True,
        window_size=case.window if case.ours or case.interleaved else None,
        window_attn_skip_freq=2 if case.interleaved else None,
        recompute_granularity=case.recompute,
        recompute_method="uniform" if case.recompute == "full" else None,
        recompute_num_layers=1 if case.recompute == "full" else None,
    )


def _megatron_masks(case: Case) -> bool:
    """Whether Megatron's attention makes the case's mask itself."""
    return case.mask == "causal" and not case.packed and (case.window is None or case.interleaved)


def _batches() -> list[tuple[int, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return list(enumerate(torch.randint(0, VOCAB, (MICROBATCHES, BATCH, LENGTH + 1), generator=generator)))


def _forward(batch, model, case: Case):
    number, text = batch
    device = devices.current().current_device()
    tokens, labels, positions = text[:, :-1], text[:, 1:], mask_batches.positions(number, case.packed)
    attention_mask, packed = mask_batches.attention_mask(case.mask, case.packed, number), None
    if case.ours and case.packed:
        packed = mask_batches.packed_seq_params(number)
        tokens, labels, positions = (t.reshape(1, -1) for t in (tokens, labels, positions))
    if not case.ours:
        attention_mask = None
        if not _megatron_masks(case):
            attention_mask = mask_batches.dense_mask(case.mask, case.packed, case.window, number).to(device)
        for module in model.modules():
            if isinstance(module, DenseAttention):
                module.attention_dropout.documents = mask_batches.document_lengths(number, case.packed)
    elif attention_mask is not None and attention_mask.dtype == torch.bool:
        attention_mask = attention_mask.to(device)
    losses = model(
        tokens.to(device),
        positions.to(device),
        attention_mask,
        labels=labels.to(device),
        packed_seq_params=packed,
    )
    return losses, lambda output: (output.float().mean(), output.detach().float().mean())


def _set_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """Draw the whole tensor of every parameter and keep this rank's part; returns the whole ones."""
    whole = {}
    for name, parameter in model.named_parameters():
        axis, ranks = _partition(parameter)
        shape = [size * ranks if dim == axis else size for dim, size in enumerate(parameter.shape)]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randn(shape, generator=generator) * (0.1 if len(shape) > 1 else 0.3)
        if "norm" in name and name.endswith("weight"):
            drawn += 1.0
        whole[name] = drawn.bfloat16().float()  # the same values in float32 and bfloat16 models
        rank = parallel_state.get_tensor_model_parallel_rank()
        part = whole[name] if ranks == 1 else whole[name].chunk(ranks, dim=axis)[rank]
        parameter.data.copy_(part)
    return {name: _whole(parameter, parameter.data.float()) for name, parameter in model.named_parameters()}


def _partition(parameter: torch.nn.Parameter) -> tuple[int, int]:
    """The dim that is split over the tensor-parallel ranks and the number of parts."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return 0, 1
    return parameter.partition_dim, parallel_state.get_tensor_model_parallel_world_size()


def _whole(parameter: torch.nn.Parameter, local: Tensor) -> Tensor:
    axis, ranks = _partition(parameter)
    if ranks == 1:
        return local.to("cpu", copy=True)
    parts = [torch.empty_like(local) for _ in range(ranks)]
    dist.all_gather(parts, local.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
    return torch.cat(parts, dim=axis).cpu()
