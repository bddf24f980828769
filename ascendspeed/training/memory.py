"""The memory per card that a training run needs, counted before it is started: no device, no data, seconds.

    WORLD_SIZE=64 python -m ascendspeed.training.memory FLAGS        # the flags of ascendspeed.training.pretrain_gpt

Weights, gradients and optimizer are counted on the modules and buffers of every pipeline stage, activations by
`memory_activations`. The exit status is 1 if a card's memory does not hold it.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ascendspeed.training import flags
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.memory_activations import activations
from ascendspeed.training.memory_shard import build_shard
from ascendspeed.training.mistakes import Mistake

__all__ = ["USABLE", "Estimate", "Memory", "estimate", "main", "report"]

GIB = 2**30
USABLE = int(60.96 * GIB)
"""Bytes that a program can allocate on a card of 64 GB, Atlas A2 or a die of Atlas A3: what their users report
(vllm-project/vllm-ascend#1670). The driver and the runtime hold the rest."""
_MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes on the card of one rank."""

    rank: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    """Tensors that live within one layer; or within the optimizer's step, if that is more than all activations."""
    communication: int

    @property
    def total(self) -> int:
        """The most that is there at once."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.working + self.communication


@dataclass(frozen=True)
class Estimate:
    """What a run needs."""

    parameters: int
    """Numbers of the whole model, vocabulary rows as given."""
    stages: tuple[Memory, ...]
    """One rank of each pipeline stage: the first rank of the job, ..., the last one."""

    @property
    def peak(self) -> int:
        """Bytes on the fullest card."""
        return max(stage.total for stage in self.stages)


def estimate(run: RunConfig) -> Estimate:
    """Count the memory of one rank of every pipeline stage of `run`.

    Raises:
        Mistake: --padded-vocab-size is missing, or a flag is not counted.
    """
    rows = run.model.padded_vocab_size
    if rows is None:
        raise Mistake("--padded-vocab-size is missing: without the data nothing else says how large the vocabulary is")
    stages = run.parallel.pipeline_model_parallel_size
    ranks = [*(stage * run.world_size // stages for stage in range(stages - 1)), run.world_size - 1]
    parameters, memories = 0, []
    for stage, rank in enumerate(ranks):
        try:
            kept = activations(run, stage, rows)
        except NotImplementedError as error:
            raise Mistake(str(error)) from None
        shard = build_shard(run, rank, rows)
        parameters += shard.whole
        memories.append(
            Memory(
                rank=rank,
                parameters=shard.parameters,
                gradients=shard.gradients,
                optimizer=shard.optimizer,
                activations=kept.kept,
                working=max(kept.working, shard.step - kept.kept),
                communication=_communication(run, stage),
            )
        )
    return Estimate(parameters, tuple(memories))


def _communication(run: RunConfig, stage: int) -> int:
    """HCCL's buffers: two of HCCL_BUFFSIZE per communicator, two smaller ones per neighbouring stage."""
    p = run.parallel
    tp, pp, dp = p.tensor_model_parallel_size, p.pipeline_model_parallel_size, run.data_parallel_size
    ends = stage in (0, pp - 1) and not run.model.untie_embeddings_and_output_weights
    # Gradients and reports have a data-parallel group each. The gradient norm has a group of a whole model, with the
    # distributed optimizer one of all ranks.
    norm = run.world_size if p.use_distributed_optimizer else tp * pp
    sizes = [run.world_size, tp, pp, dp, dp, norm, pp if ends else 1]
    neighbours = min(2, pp - 1) if run.virtual_stages > 1 else (stage > 0) + (stage < pp - 1)
    buffer = _megabytes("HCCL_BUFFSIZE", os.environ.get("HCCL_BUFFSIZE", "200"))
    p2p = _megabytes("P2P_HCCL_BUFFSIZE", os.environ.get("P2P_HCCL_BUFFSIZE", "20"))
    return 2 * (sum(size > 1 for size in sizes) * buffer + neighbours * p2p) * _MIB


def _megabytes(name: str, value: str) -> int:
    if not value.isdecimal():
        raise Mistake(f"{name}={value} is not a whole number of megabytes")
    return int(value)


def report(run: RunConfig, counted: Estimate) -> str:
    """The estimate as a table, GiB per card, with the verdict in the last line."""
    p, t = run.parallel, run.training
    lines = [
        f"{counted.parameters:,} parameters; {run.world_size} ranks: tensor {p.tensor_model_parallel_size} x "
        f"pipeline {p.pipeline_model_parallel_size} x data {run.data_parallel_size} parallel; sequence "
        f"{run.model.seq_length}, micro batch {t.micro_batch_size}, global batch {run.global_batch_size}",
        "GiB per card   weights  gradients  optimizer  activations  working  communication  total",
    ]
    per_stage = run.world_size // p.pipeline_model_parallel_size
    for stage, m in enumerate(counted.stages):
        cells = (m.parameters, m.gradients, m.optimizer, m.activations, m.working, m.communication, m.total)
        ranks = f"ranks {stage * per_stage}-{(stage + 1) * per_stage - 1}"
        lines.append(
            ranks.ljust(13)
            + "".join(f"{cell / GIB:{width}.2f}" for cell, width in zip(cells, (9, 11, 11, 13, 9, 15, 7), strict=True))
        )
    verdict = "fits into" if counted.peak <= USABLE else "does NOT fit into"
    lines.append(f"{counted.peak / GIB:.2f} GiB {verdict} the {USABLE / GIB:.2f} GiB of a card of 64 GB")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of the run that `argv` (the command line's if None) asks for; 0 if it fits, 1 if not, 2 for a
    mistake in the flags, which is told in one line."""
    try:
        run = flags.parse(sys.argv[1:] if argv is None else argv)
        counted = estimate(run)
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    print(report(run, counted))
    return 0 if counted.peak <= USABLE else 1


if __name__ == "__main__":
    sys.exit(main())
