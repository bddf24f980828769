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
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ascendspeed import device as devices
from ascendspeed.device import cuda_shim
from ascendspeed.integrations.megatron import AscendDotProductAttention, get_gpt_layer_spec

__all__ = ["LENGTH", "Case", "Step", "draw_seeds", "initialize", "one_step", "step_of_each"]

LAYERS, HIDDEN, VOCAB, LENGTH, BATCH, MICROBATCHES = 2, 64, 96, 24, 2, 2
PREFIXES = ([5, 17], [0, 24])  # per micro-batch: in the middle, nothing, everything


@dataclass(frozen=True)
class Case:
    """One model and the way it is computed."""

    mask: str = "causal"  # or "prefix"
    groups: int = 4  # key/value heads, of 4 query heads
    dtype: torch.dtype = torch.float32
    ours: bool = True  # False: Megatron's DotProductAttention, with a dense mask for "prefix"
    ranks: int = 1  # tensor-parallel
    sequence_parallel: bool = False
    normalization: str = "LayerNorm"
    recompute: str | None = None  # "full" or "selective"
    dropout: float = 0.0  # of the attention

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
    core_attention = AscendDotProductAttention if case.ours else DotProductAttention
    gpt = GPTModel(
        config,
        get_gpt_layer_spec(config, mask=case.mask, core_attention=core_attention),
        vocab_size=VOCAB,
        max_sequence_length=LENGTH,
        position_embedding_type="rope",
        share_embeddings_and_output_weights=False,
    ).to(devices.current().current_device())
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
        recompute_granularity=case.recompute,
        recompute_method="uniform" if case.recompute == "full" else None,
        recompute_num_layers=1 if case.recompute == "full" else None,
    )


def _batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, VOCAB, (MICROBATCHES, BATCH, LENGTH + 1), generator=generator)
    return [(batch, torch.tensor(prefix)) for batch, prefix in zip(tokens, PREFIXES, strict=True)]


def _forward(batch, model, case: Case):
    tokens, prefix = batch
    device = devices.current().current_device()
    attention_mask = None
    if case.mask == "prefix":
        attention_mask = prefix if case.ours else _dense_prefix_mask(prefix).to(device)
    tokens = tokens.to(device)
    positions = torch.arange(LENGTH, device=device).expand(BATCH, -1)
    losses = model(tokens[:, :-1], positions, attention_mask, labels=tokens[:, 1:])
    return losses, lambda output: (output.float().mean(), output.detach().float().mean())


def _dense_prefix_mask(prefix: Tensor) -> Tensor:
    """[B, 1, S, S], True = left out: key j is seen by query i if j <= i, or if it is in the sample's prefix."""
    i, j = torch.arange(LENGTH).view(-1, 1), torch.arange(LENGTH)
    return (j > i) & (j >= prefix.view(-1, 1, 1, 1))


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
