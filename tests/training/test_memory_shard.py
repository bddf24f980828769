"""What a rank is said to hold, against the trainer's own model and optimizer of a small run, and against arithmetic."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

from ascendspeed.training import flags, model, optimizer
from ascendspeed.training.initialize import world
from ascendspeed.training.memory_shard import build_shard

pytestmark = pytest.mark.usefixtures("no_process_group")

ROWS = 512
SMALL = f"""
    --num-layers 4 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 48
    --micro-batch-size 1 --train-iters 2 --lr 1e-3 --device cpu --padded-vocab-size {ROWS}
"""


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """The trainer leaves its process group to the program's end."""
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("more", ["", "--bf16", "--bf16 --use-distributed-optimizer", "--bf16 --grad-reduce-in-bf16"])
def test_a_rank_holds_what_the_trainer_allocates(more):
    run = flags.parse((SMALL + more).split(), world_size=1)
    with _alone(), world(run) as device:
        chunks = model.build(run, device, ROWS)
        adam, _ = optimizer.build(run, chunks)
        for chunk in chunks:
            for buffer in chunk.buffers:
                buffer.grad_data.fill_(1e-3)
        adam.step()
        weights = sum(parameter.nbytes for chunk in chunks for parameter in chunk.parameters())
        gradients = sum(buffer.grad_data.nbytes for chunk in chunks for buffer in chunk.buffers)
        (inner,) = getattr(adam, "chained_optimizers", [adam])
        updated = [p for group in inner.optimizer.param_groups for p in group["params"]]
        kept = [t for p in updated for t in inner.optimizer.state[p].values() if t.dim() > 0]  # no counters
        if run.model.bf16:
            kept += updated  # the float32 weights; without bf16 they are the model's own
        held = sum(t.nbytes for t in kept)
        summed = {buffer.grad_data.untyped_storage().data_ptr() for chunk in chunks for buffer in chunk.buffers}
        copied = sum(p.grad.nbytes for p in updated if p.grad.untyped_storage().data_ptr() not in summed)
    shard = build_shard(run, 0, ROWS)
    assert shard.gradients == gradients
    assert shard.step == copied
    assert bool(copied) == run.parallel.grad_reduce_in_bf16
    # Buffers of the distributed optimizer start every tensor at a multiple of 64 numbers and are counted with the gaps.
    gaps = shard.gradients // 4 - sum(p.numel() for chunk in chunks for p in chunk.parameters())
    distributed = run.parallel.use_distributed_optimizer
    assert shard.parameters - weights == (2 * gaps if distributed else 0)
    assert shard.optimizer - held == (12 * gaps if distributed else 0)
    assert 0 <= gaps < 128 if not run.parallel.grad_reduce_in_bf16 else True


@pytest.mark.parametrize(
    ("more", "world_size"),
    [
        ("", 1),
        ("--tensor-model-parallel-size 2 --sequence-parallel", 4),
        ("--tensor-model-parallel-size 4 --pipeline-model-parallel-size 2 --use-distributed-optimizer --bf16", 64),
        ("--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2 --global-batch-size 2", 2),
        ("--pipeline-model-parallel-size 4 --untie-embeddings-and-output-weights", 512),
    ],
)
def test_all_stages_together_are_the_whole_model_however_it_is_cut(more, world_size):
    hidden, layers, positions = 64, 4, 48
    whole = layers * (12 * hidden**2 + 13 * hidden) + (ROWS + positions + 2) * hidden
    if "--untie" in more:
        whole += ROWS * hidden
    run = flags.parse((SMALL + more).split(), world_size=world_size)
    stages = run.parallel.pipeline_model_parallel_size
    shards = [build_shard(run, stage * world_size // stages, ROWS) for stage in range(stages)]
    assert sum(shard.whole for shard in shards) == whole


def test_data_parallel_ranks_share_the_optimizer_only_if_asked_to():
    run, shared = (flags.parse((SMALL + more).split(), world_size=8) for more in ("", "--use-distributed-optimizer"))
    assert build_shard(run, 0, ROWS).optimizer == build_shard(run, 0, ROWS).gradients * 2
    assert build_shard(shared, 0, ROWS).optimizer == build_shard(shared, 0, ROWS).gradients * 2 // 8


def test_nothing_is_left_of_the_job_that_was_counted():
    run = flags.parse((SMALL + "--tensor-model-parallel-size 2").split(), world_size=2)
    build_shard(run, 1, ROWS)
    assert not torch.distributed.is_initialized()
    with pytest.raises(AssertionError, match="CUDA"):
        torch.cuda.current_device()
