"""The operator beside torch's scaled_dot_product_attention: one case, forward, and forward and backward."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ascendspeed.bench.cases import DTYPES, Attend, Case, operator, problem, torch_sdpa, visible_pairs
from ascendspeed.bench.timing import Budget, describe, interleave, warm_up
from ascendspeed.ops import library

__all__ = ["DIRECTIONS", "DisagreementError", "Timing", "passes", "time_case"]

# Matrix products of a pass: scores and output; in the backward scores and dP again, dq, dk and dv.
DIRECTIONS = {"forward": 2, "forward+backward": 7}


class DisagreementError(AssertionError):
    """Two subjects of a benchmark compute different things: their times say nothing about each other."""


@dataclass(frozen=True)
class Timing:
    """A case in one direction."""

    case: Case
    direction: str
    seconds: dict[str, list[float]]
    """Seconds per call of each round, by subject: torch, ours, and for some cases "ours float32"."""
    peaks: list[float]
    """GFLOP/s of the processor in each round, for the cases that ask."""

    @property
    def ratio(self) -> float:
        """torch's median / ours."""
        return self.over("torch")

    @property
    def gflops(self) -> float:
        """Of ours: 10^9 operations per second by the median, a multiply-add counted as two, of visible positions."""
        operations = 2 * DIRECTIONS[self.direction] * visible_pairs(self.case) * self.case.head_size
        return operations / statistics.median(self.seconds["ours"]) / 1e9

    @property
    def share_of_peak(self) -> float | None:
        """Our GFLOP/s / the median of the processor's."""
        return self.gflops / statistics.median(self.peaks) if self.peaks else None

    def over(self, subject: str) -> float:
        """The median of `subject` / ours."""
        return statistics.median(self.seconds[subject]) / statistics.median(self.seconds["ours"])

    def header(self) -> tuple[str, ...]:
        return ("case", "pass", "torch", "ours", "torch / ours", "ours, GFLOP/s", "of the peak", "rounds", "notes")

    def row(self) -> tuple[str, ...]:
        return (
            self.case.name,
            self.direction,
            describe(self.seconds["torch"]),
            describe(self.seconds["ours"]),
            f"{self.ratio:.2f}",
            f"{self.gflops:.3g}",
            "" if self.share_of_peak is None else f"{self.share_of_peak:.0%} of {statistics.median(self.peaks):.0f}",
            str(len(self.seconds["ours"])),
            f"our own float32 / ours {self.over('ours float32'):.2f}" if self.case.beside_float32 else "",
        )

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "gflops": self.gflops, "share_of_peak": self.share_of_peak}


def time_case(case: Case, rounds: int, budget_seconds: float) -> Iterator[Timing]:
    """Both directions, one after the other; `DisagreementError` if torch and we do not compute the same."""
    tensors, gradient = problem(case)
    subjects: dict[str, tuple[Attend, list[Tensor], Tensor]] = {
        "torch": (torch_sdpa(case), tensors, gradient),
        "ours": (operator(case), tensors, gradient),
    }
    if case.beside_float32:
        numbers = [tensor.detach().float().requires_grad_() for tensor in tensors]
        subjects["ours float32"] = (operator(case), numbers, gradient.float())
    _compare(case, tensors)
    budget = Budget(budget_seconds)
    for direction in DIRECTIONS:
        measures, seconds = {}, 0.0
        for name, subject in subjects.items():
            measures[name], taken = warm_up(passes(direction, *subject))
            seconds += taken
        if case.peak:
            measures["peak"] = lambda: library.peak_gflops(DTYPES[case.dtype])
        figures = interleave(measures, budget.rounds(rounds, seconds))
        yield Timing(case, direction, peaks=figures.pop("peak", []), seconds=figures)


def passes(direction: str, attend: Attend, tensors: list[Tensor], gradient: Tensor) -> Callable[[], None]:
    """The pass to time. What it computes is thrown away."""

    def forward() -> None:
        with torch.no_grad():
            attend(*tensors)

    def both() -> None:
        torch.autograd.grad(attend(*tensors), tensors, gradient)

    return {"forward": forward, "forward+backward": both}[direction]


def _compare(case: Case, tensors: list[Tensor]) -> None:
    """Hold our output against torch's.

    An output is a mean of values v with weights from the scores. Rounding to the dtype errs by eps |v| at most, twice
    on either side (weights and output). In float32 a score of D products of standard normal numbers errs by less than
    4 D eps, which the softmax doubles, and the sum of Skv weighted values by Skv eps |v|.
    """
    with torch.no_grad():
        theirs, ours = torch_sdpa(case)(*tensors), operator(case)(*tensors)
    eps = torch.finfo(DTYPES[case.dtype]).eps
    float32 = torch.finfo(torch.float32).eps
    bound = (4 * eps + (8 * case.head_size + case.key_length) * float32) * tensors[2].detach().abs().max().item()
    error = (theirs.float() - ours.float()).abs().max().item()
    if not error <= bound:
        raise DisagreementError(
            f"case {case.name}: our output differs from torch's by {error:.2g}, more than the {bound:.2g} of rounding"
        )
