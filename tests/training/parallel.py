"""A small model with known weights, trained for a few iterations by the trainer's own pieces in every way to cut it.

Weights are drawn by the name of the parameter in the whole model and cut for the rank; gradients and weights are put
together again, so that runs on any number of ranks can be compared.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.gpt import GPTModel
from megatron.core.utils import unwrap_model
from torch import Tensor

from ascendspeed.training import data, flags, model, optimizer, step
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.initialize import world
from ascendspeed.training.masks import SampleMasks
from tests.support.device import DEVICE

__all__ = ["GPT2", "LLAMA", "PACKED", "PREFIXES", "STEPS", "Case", "Outcome", "train", "train_each"]

STEPS, LENGTH, VOCAB, BATCH = 3, 16, 96, 8
END, PREFIX_END = 94, 95  # the tokens that end a document and a prefix
COMMON = (
    f"--num-layers 4 --hidden-size 32 --num-attention-heads 4 --seq-length {LENGTH} --max-position-embeddings {LENGTH} "
    f"--micro-batch-size 1 --global-batch-size {BATCH} --train-iters {STEPS} --attention-dropout 0 --hidden-dropout 0 "
    f"--lr 0.1 --adam-eps 0.1 --clip-grad 0.5 --make-vocab-size-divisible-by 8 --num-workers 0 --device {DEVICE} "
)
GPT2 = ""  # learned positions, LayerNorm, biases, embedding and output weights tied
LLAMA = (
    "--position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear "
    "--untie-embeddings-and-output-weights --group-query-attention --num-query-groups 2 "
)
PACKED = LLAMA + "--micro-batch-size 2 --reset-attention-mask --window-size 4,0 --window-attn-skip-freq 2 "
PREFIXES = GPT2 + f"--reset-attention-mask --prefix-lm --prefix-end-token {PREFIX_END} "


@dataclass(frozen=True)
class Case:
    """A model and the flags that say how it is cut and computed."""

    model: str
    how: str = ""

    def run(self, ranks: int) -> RunConfig:
        return flags.parse((COMMON + self.model + self.how).split(), world_size=ranks)


@dataclass(frozen=True)
class Outcome:
    """Of the whole model, by parameter name, in float32: the first gradients, before clipping, and what was learnt."""

    gradients: dict[str, Tensor]
    changes: dict[str, Tensor]
    """Weights after all iterations minus those before the first."""
    largest: dict[str, float]
    """Largest absolute value of each weight before the first iteration."""
    losses: list[float]
    grad_norms: list[float]
    validation: float
    """Loss of the batches after the last iteration, forward only."""


def train_each(cases: list[Case]) -> list[Outcome]:
    """On every rank of a world: the outcome of each case."""
    return [train(case) for case in cases]


def train(case: Case) -> Outcome:
    """Train in the world there is, or in this process alone."""
    run = case.run(dist.get_world_size() if dist.is_initialized() else 1)
    with world(run) as device:
        chunks = model.build(run, device, VOCAB)
        _set_weights(chunks)
        adam, schedule = optimizer.build(run, chunks)
        adam.reload_model_params()  # the float32 copies of bfloat16 weights, and the distributed optimizer's share
        before = _whole(chunks, lambda parameter: parameter.data)
        for chunk in chunks:
            chunk.zero_grad_buffer()
        step._forward_backward(chunks, _batches(run, 0), run, device, run.num_microbatches, forward_only=False)
        _gather_gradients(chunks)
        gradients = _whole(chunks, lambda parameter: parameter.main_grad)
        results = [step.train_step(chunks, adam, schedule, _batches(run, i), run, device) for i in range(STEPS)]
        with step.gathered_parameters(chunks):
            after = _whole(chunks, lambda parameter: parameter.data)
            validation = step._forward_backward(
                chunks, _batches(run, STEPS), run, device, run.num_microbatches, forward_only=True
            )
    return Outcome(
        gradients,
        {name: after[name] - before[name] for name in before},
        {name: float(before[name].abs().max()) for name in before},
        [result.loss for result in results],
        [result.grad_norm for result in results],
        validation,
    )


def _batches(run: RunConfig, iteration: int) -> Iterator[data.Batch]:
    """This rank's micro-batches of a global batch of random tokens; every fifth prediction is left out of the loss."""
    generator = torch.Generator().manual_seed(iteration)
    tokens = torch.randint(0, VOCAB, (BATCH, LENGTH + 1), generator=generator)
    mask = (torch.rand(BATCH, LENGTH, generator=generator) > 0.2).float()
    if run.data.reset_attention_mask:  # documents that end in all samples elsewhere, with prefixes in some
        tokens[torch.arange(BATCH), torch.arange(BATCH) + 3] = END
        tokens[::2, 2] = tokens[1::2, 12] = PREFIX_END
    prefix_end = PREFIX_END if run.data.prefix_lm else None
    collate = SampleMasks(run.data.reset_attention_mask, END, prefix_end)
    size, ranks = run.training.micro_batch_size, run.data_parallel_size
    for picked in data._MicroBatches(BATCH, 0, BATCH, size, parallel_state.get_data_parallel_rank(), ranks):
        yield collate(
            [
                {
                    "tokens": tokens[sample, :-1],
                    "labels": tokens[sample, 1:],
                    "position_ids": torch.arange(LENGTH),
                    "loss_mask": mask[sample],
                }
                for sample in picked
            ]
        )


def _parameters(chunks: list[DistributedDataParallel]) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """This rank's parameters by their name in the whole model; a tied output layer has the name of the embedding."""
    for gpt in unwrap_model(chunks):
        assert isinstance(gpt, GPTModel)
        for name, parameter in gpt.named_parameters():
            layer = re.match(r"decoder\.layers\.(\d+)\.", name)
            if layer:
                number = gpt.decoder.layers[int(layer[1])].layer_number - 1
                name = f"decoder.layers.{number}.{name[layer.end() :]}"
            if name == "output_layer.weight" and gpt.share_embeddings_and_output_weights:
                name = "embedding.word_embeddings.weight"
            yield name, parameter


def _set_weights(chunks: list[DistributedDataParallel]) -> None:
    """Draw the whole tensor of every parameter and keep this rank's part."""
    rank = parallel_state.get_tensor_model_parallel_rank()
    for name, parameter in _parameters(chunks):
        local = _gates_apart(name, parameter.data, chunks)
        axis, ranks = _partition(parameter, local)
        shape = [size * ranks if dim == axis else size for dim, size in enumerate(local.shape)]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        drawn = torch.randn(shape, generator=generator) * (0.2 if parameter.dim() > 1 else 0.3)
        if "norm" in name and name.endswith("weight"):
            drawn += 1.0
        local.copy_(drawn.chunk(ranks, dim=axis)[rank % ranks])


def _gather_gradients(chunks: list[DistributedDataParallel]) -> None:
    """With the distributed optimizer a rank has only its share of each bucket's sum: fetch the others."""
    for chunk in chunks:
        if chunk.ddp_config.use_distributed_optimizer:
            group = chunk.dp_cp_group
            for bucket in (bucket for buffer in chunk.buffers for bucket in buffer.buckets):
                shares = list(bucket.grad_data.chunk(group.size()))
                dist.all_gather(shares, shares[group.rank()].clone(), group=group)


def _whole(chunks: list[DistributedDataParallel], tensor_of) -> dict[str, Tensor]:
    """The tensors of all parameters of the model, put together from all ranks of it; on every rank."""
    mine: dict[str, Tensor] = {}
    for name, parameter in _parameters(chunks):
        local = _gates_apart(name, tensor_of(parameter).detach().float(), chunks)
        axis, ranks = _partition(parameter, local)
        parts = [torch.empty_like(local) for _ in range(ranks)]
        if ranks > 1:
            dist.all_gather(parts, local.contiguous(), group=parallel_state.get_tensor_model_parallel_group())
        else:
            parts = [local.clone()]
        mine[name] = torch.cat(parts, dim=axis).cpu()
    stages = [mine] * parallel_state.get_pipeline_model_parallel_world_size()
    if len(stages) > 1:
        dist.all_gather_object(stages, mine, group=parallel_state.get_pipeline_model_parallel_group())
    whole: dict[str, Tensor] = {}
    for stage in stages:
        for name, tensor in stage.items():
            assert torch.equal(whole.setdefault(name, tensor), tensor), f"the two copies of {name} differ"
    return dict(sorted(whole.items()))


def _gates_apart(name: str, local: Tensor, chunks: list[DistributedDataParallel]) -> Tensor:
    """A rank's part of SwiGLU's first matrix is its part of the gates and, below, of the values: [2, F / TP, H]."""
    gated = chunks[0].config.gated_linear_unit and "linear_fc1" in name
    return local.unflatten(0, (2, -1)) if gated else local


def _partition(parameter: torch.nn.Parameter, local: Tensor) -> tuple[int, int]:
    """The dim of `local` that is split over the tensor-parallel ranks and the number of parts."""
    if not getattr(parameter, "tensor_model_parallel", False):
        return 0, 1
    return (
        parameter.partition_dim + local.dim() - parameter.dim(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
