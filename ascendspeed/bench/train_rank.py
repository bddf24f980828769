"""What each of the processes of `train` does: the models, their agreement, their steps; each writes what it found."""

import contextlib
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from ascendspeed.bench.attention import DisagreementError
from ascendspeed.bench.core_attention import core_attentions, put
from ascendspeed.bench.resident import peak_resident_bytes, reset_peak, return_freed_memory
from ascendspeed.bench.timing import interleave
from ascendspeed.device import Device
from ascendspeed.training import model, optimizer
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.initialize import seed_generators, world
from ascendspeed.training.masks import Batch
from ascendspeed.training.step import StepResult, train_step

__all__ = ["measure_memory", "time_steps"]

_PROFILED_OPERATORS = 20


def time_steps(
    rank: int, folder: str, run: RunConfig, vocab_size: int, attentions: list[str], rounds: int, profiled: bool
) -> None:
    """One model for each attention, trained in turn, a step in each round; writes seconds and first losses by name.

    `DisagreementError` before the first round if the models do not compute the same.
    """
    with _joined(rank, run, folder) as device:
        models = {name: _Model(name, run, vocab_size, device) for name in attentions}
        first = {name: each.watched_step() for name, each in models.items()}
        _compare(first, run)
        steps = {name: functools.partial(_seconds, each.step) for name, each in models.items()}
        found: dict[str, dict[str, Any]] = {
            name: {"seconds": seconds, "loss": first[name].result.loss, "grad_norm": first[name].result.grad_norm}
            for name, seconds in _interleaved(steps, rounds, rank).items()
        }
        if profiled:
            for name, each in models.items():
                found[name]["profile"] = _profile(each.step)
        _write(rank, folder, found)


def measure_memory(rank: int, folder: str, run: RunConfig, vocab_size: int, attention: str) -> None:
    """Two steps of one model in a process that does nothing else; writes the peak, bytes.

    The peak is of the resident memory above what there was before the model: weights, gradients, the optimizer's state
    and what a step needs besides. The second step has them all.
    """
    return_freed_memory()
    with _joined(rank, run, folder) as device:
        reset_peak()
        before = peak_resident_bytes()
        trained = _Model(attention, run, vocab_size, device)
        for _ in range(2):
            trained.step()
        _write(rank, folder, peak_resident_bytes() - before)


def _write(rank: int, folder: str, found: object) -> None:
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


@contextlib.contextmanager
def _joined(rank: int, run: RunConfig, folder: str) -> Iterator[Device]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=run.world_size)
    with world(run) as device:
        yield device
        dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()


@dataclass(frozen=True)
class _First:
    """The first step of a model."""

    result: StepResult
    attention_out: Tensor
    """Of the first layer: query, key and value are the same in all models."""


class _Model:
    """A GPT with one of the attentions, its optimizer and one batch of random tokens; all begin with equal weights."""

    def __init__(self, attention: str, run: RunConfig, vocab_size: int, device: Device) -> None:
        seed_generators(run.training.seed)
        self._run, self._device = run, device
        self._chunks = model.build(run, device, vocab_size)
        put(attention, self._chunks[0])
        self._adam, self._schedule = optimizer.build(run, self._chunks)
        self._batches = itertools.repeat(_batch(run, vocab_size))

    def step(self) -> StepResult:
        return train_step(self._chunks, self._adam, self._schedule, self._batches, self._run, self._device)

    def watched_step(self) -> _First:
        outputs: list[Tensor] = []
        watched = core_attentions(self._chunks[0])[0]
        hook = watched.register_forward_hook(lambda _, __, out: outputs.append(out.detach().float().clone()))
        result = self.step()
        hook.remove()
        return _First(result, outputs[0])


def _batch(run: RunConfig, vocab_size: int) -> Batch:
    size = run.training.micro_batch_size, run.model.seq_length
    generator = torch.Generator().manual_seed(run.training.seed)
    text = torch.randint(0, vocab_size, (size[0], size[1] + 1), generator=generator)
    return {
        "tokens": text[:, :-1],
        "labels": text[:, 1:],
        "position_ids": torch.arange(size[1]).expand(size),
        "loss_mask": torch.ones(size),
    }


def _compare(first: dict[str, _First], run: RunConfig) -> None:
    """Hold the first steps of all models against each other.

    The first layer's attention gets the same numbers in all of them. What it returns is rounded to the dtype a few
    times (scores, weights, output), each time by half an eps of it at most: 16 eps hold them all, relative to the norm.
    The loss is a mean over all tokens of what such roundings, one after the other in a few layers, make of it.
    """
    bound = 16 * torch.finfo(torch.bfloat16 if run.model.bf16 else torch.float32).eps
    (name, one), *others = first.items()
    for other_name, other in others:
        error = ((one.attention_out - other.attention_out).norm() / one.attention_out.norm()).item()
        loss_error = abs(one.result.loss - other.result.loss) / one.result.loss
        for what, found in (("the attention of the first layer", error), ("the loss of the first step", loss_error)):
            if not found <= bound:
                raise DisagreementError(
                    f"{what} differs by {found:.2g} between {name} and {other_name}, relatively; "
                    f"rounding explains {bound:.2g}"
                )


def _interleaved(steps: Mapping[str, Callable[[], float]], rounds: int, rank: int) -> dict[str, list[float]]:
    with tqdm(total=rounds * len(steps), unit="step", file=sys.stderr, disable=rank != 0) as bar:

        def told(step: Callable[[], float]) -> float:
            seconds = step()
            bar.update()
            return seconds

        return interleave({name: functools.partial(told, step) for name, step in steps.items()}, rounds)


def _seconds(step: Callable[[], StepResult]) -> float:
    """From when all ranks begin to when all have ended."""
    dist.barrier()
    start = time.perf_counter()
    step()
    dist.barrier()
    return time.perf_counter() - start


def _profile(step: Callable[[], StepResult]) -> list[dict[str, Any]]:
    """The operators that took longest in a step of this rank, waiting for others included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        step()
    events = sorted(profiler.key_averages(), key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        {
            "operator": event.key,
            "calls": event.count,
            "seconds": event.self_cpu_time_total / 1e6,
            "share": event.self_cpu_time_total / total,
        }
        for event in events[:_PROFILED_OPERATORS]
    ]
