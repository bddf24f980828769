"""`train`: a step of a small GPT with our attention, and with others in its place: tokens per second, peak memory.

The GPT is the trainer's, cut in two: TP=2 with sequence parallelism, on two processes of one thread each. What a
process does is train_rank's business.
"""

import dataclasses
import json as json_format
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.multiprocessing

from ascendspeed.bench import files, machine
from ascendspeed.bench.extras import require
from ascendspeed.bench.tables import markdown
from ascendspeed.bench.timing import describe
from ascendspeed.training import flags
from ascendspeed.training.configs import RunConfig

__all__ = ["ATTENTIONS", "Shape", "main"]

ATTENTIONS = {
    "ours": "the fused operator",
    "dense": "megatron-core's DotProductAttention",
    "sdpa": "torch's scaled_dot_product_attention",
}
_PROCESSES = 2
_MIB = 2**20


@dataclass(frozen=True)
class Shape:
    """Sizes of the GPT and its one sample; the flags of the same names."""

    seq_length: int = 2048
    num_layers: int = 4
    hidden_size: int = 512
    num_attention_heads: int = 8
    vocab_size: int = 4096
    dtype: str = "float32"

    def run_config(self) -> RunConfig:
        """The trainer's settings; `Mistake` for what the trainer refuses."""
        sizes = (
            f"--seq-length {self.seq_length} --max-position-embeddings {self.seq_length} --hidden-size "
            f"{self.hidden_size} --num-layers {self.num_layers} --num-attention-heads {self.num_attention_heads}"
        )
        parallel = f"--tensor-model-parallel-size {_PROCESSES} --sequence-parallel --device cpu"
        # Without dropout every attention computes the same; the rate is low, so that all go on doing so.
        training = "--micro-batch-size 1 --train-iters 1000000 --lr 1e-6 --attention-dropout 0 --hidden-dropout 0"
        dtype = "--bf16" if self.dtype == "bf16" else ""
        return flags.parse(f"{sizes} {parallel} {training} {dtype}".split(), world_size=_PROCESSES)


@dataclass(frozen=True)
class Trained:
    """The GPT with one of the attentions."""

    seconds: list[float]
    """Of the step of each round."""
    loss: float
    """Of the first step, nats per token."""
    grad_norm: float
    """Of the first step."""
    peak_bytes: int
    """Of the process that needs more: weights, gradients, the optimizer's state, and what a step needs besides."""
    profile: list[dict[str, Any]] = field(default_factory=list)
    """With --profile: what took longest in a step of the first process."""


def main(
    *, attention: Sequence[str] = tuple(ATTENTIONS), rounds: int = 7, profile: bool = False, json: str | None = None,
    **sizes: Any,
) -> None:  # fmt: skip
    """Train, print, and write the file that is asked for; `sizes` are the fields of Shape.

    `Mistake`, before anything is built, if that cannot be done.
    """
    shape, attentions = Shape(**sizes), list(dict.fromkeys(attention))
    files.check(json)
    for library in ("megatron", "tqdm"):
        require(library, "the benchmark `train`")
    run = shape.run_config()
    described = {**machine.describe(), "processes": _PROCESSES, "threads": 1}
    for line in (described, dataclasses.asdict(shape)):
        print(", ".join(f"{name} {value}" for name, value in line.items()), flush=True)
    results = measure(run, shape, attentions, rounds, profile)
    print(f"\n{_table(results, shape.seq_length)}")
    for name, trained in results.items():
        if trained.profile:
            print(f"\n{name}: one step of the first process\n\n{_profile_table(trained.profile)}")
    if json is not None:
        plain = {name: dataclasses.asdict(trained) for name, trained in results.items()}
        files.write_json(json, {"machine": described, "shape": dataclasses.asdict(shape), "train": plain})


def measure(run: RunConfig, shape: Shape, attentions: list[str], rounds: int, profile: bool) -> dict[str, Trained]:
    """Results by name of the attention.

    Times come from one pair of processes, in which every model takes a step in each round; peaks from a pair for each
    model, since memory that one has freed would hide what the next one takes.
    """
    peaks = {}
    for name in attentions:
        print(f"memory of {name}: 2 steps", file=sys.stderr, flush=True)
        peaks[name] = max(_in_processes("measure_memory", run, shape.vocab_size, name))
    (times, *_) = _in_processes("time_steps", run, shape.vocab_size, attentions, rounds, profile)
    return {name: Trained(peak_bytes=peaks[name], **times[name]) for name in attentions}


def _in_processes(work: str, *arguments: Any) -> list[Any]:
    """What a function of train_rank has found in every process, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_process, (work, folder, *arguments), nprocs=_PROCESSES)
        return [json_format.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(_PROCESSES)]


def _process(rank: int, work: str, folder: str, *arguments: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Apex (is|are) not installed", category=UserWarning)
        from ascendspeed.bench import train_rank  # and not above: it imports megatron-core, which may not be there
    getattr(train_rank, work)(rank, folder, *arguments)


def _table(results: dict[str, Trained], tokens: int) -> str:
    ours = results.get("ours")

    def row(name: str, trained: Trained) -> tuple[str, ...]:
        seconds = statistics.median(trained.seconds)
        speed = f"{seconds / statistics.median(ours.seconds):.2f}" if ours else ""
        memory = f"{ours.peak_bytes / trained.peak_bytes:.2f}" if ours else ""
        step, peak = describe(trained.seconds), f"{trained.peak_bytes / _MIB:.0f} MiB"
        return name, step, f"{tokens / seconds:.0f}", speed, peak, memory, str(len(trained.seconds))

    header = ("attention", "step", "tokens/s", "ours / this", "peak memory", "ours / this", "rounds")
    return markdown(header, [row(*each) for each in results.items()])


def _profile_table(profile: list[dict[str, Any]]) -> str:
    rows = [(e["operator"], str(e["calls"]), f"{1e3 * e['seconds']:.1f}", f"{e['share']:.1%}") for e in profile]
    return markdown(("operator", "calls", "ms, without those it calls", "share"), rows)
