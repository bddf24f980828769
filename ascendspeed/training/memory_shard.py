"""What one rank holds of model and optimizer: counted on the real modules and buffers, on the meta device."""

from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding
from megatron.core.transformer.module import Float16Module

from ascendspeed.training.configs import RunConfig
from ascendspeed.training.fake_world import fake_world, meta_config
from ascendspeed.training.model import build_chunk, with_buffers

__all__ = ["Shard", "build_shard"]

_FLOAT32 = 4
_MOMENTS = 2


@dataclass(frozen=True)
class Shard:
    """One rank's part."""

    whole: int
    """Parameters of this rank's layers, all tensor-parallel ranks together; of tied embeddings those of the first."""
    parameters: int
    """Bytes of the weights."""
    gradients: int
    """Bytes of the buffers that gradients are summed in."""
    optimizer: int
    """Bytes of float32 weights and both moments of Adam, of this rank's share of them."""
    step: int
    """Bytes besides for as long as the update lasts: gradients of bfloat16 are copied to float32. A fused Adam, torch's
    as apex's, works in place."""


def build_shard(run: RunConfig, rank: int, vocab_rows: int) -> Shard:
    """Build the part of rank `rank` as the trainer does, except that no memory is behind it, and count.

    vocab_rows: rows of the embedding, of all ranks together.
    """
    with fake_world(run, rank):
        config = meta_config(run)
        with torch.device("meta"):
            modules: list[torch.nn.Module] = [
                build_chunk(run, config, vocab_rows, chunk) for chunk in range(run.virtual_stages)
            ]
            whole = sum(_whole(module, run) for module in modules)
            if run.model.bf16:
                modules = [Float16Module(config, module) for module in modules]
            chunks = with_buffers(run, config, modules)
        numbers = _numbers(run, chunks)
        return Shard(
            whole=whole,
            parameters=sum(_bytes({p.untyped_storage() for p in chunk.parameters()}) for chunk in chunks),
            gradients=sum(buffer.grad_data.nbytes for chunk in chunks for buffer in chunk.buffers),
            optimizer=numbers * _FLOAT32 * (_MOMENTS + run.model.bf16),  # without bf16 no second weights
            step=numbers * _FLOAT32 if run.parallel.grad_reduce_in_bf16 else 0,
        )


def _whole(module: torch.nn.Module, run: RunConfig) -> int:
    """Parameters of a model chunk before tensor parallelism cut it."""
    size = run.parallel.tensor_model_parallel_size
    number = 0
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            cut = isinstance(part, ColumnParallelLinear | VocabParallelEmbedding) or (
                isinstance(part, RowParallelLinear) and name == "weight"
            )
            tied_again = getattr(parameter, "shared_embedding", False) and not getattr(module, "pre_process", True)
            number += 0 if tied_again else parameter.numel() * (size if cut else 1)
    return number


def _numbers(run: RunConfig, chunks: list[DistributedDataParallel]) -> int:
    """Numbers that this rank updates: all of its own, or with the distributed optimizer its share of them."""
    numbers = sum(buffer.numel for chunk in chunks for buffer in chunk.buffers)
    return numbers // run.data_parallel_size if run.parallel.use_distributed_optimizer else numbers


def _bytes(storages: set[torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages)
