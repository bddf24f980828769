"""What no comparison with torch shows: what a second thread gives, and how the cost grows with the length."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from ascendspeed.bench.attention import DIRECTIONS, passes
from ascendspeed.bench.cases import Case, operator, problem, visible_pairs
from ascendspeed.bench.timing import Budget, Measure, describe, interleave, warm_up

__all__ = ["LENGTHS", "Curve", "Scaling", "cost_of_length", "curves", "gain_of_threads", "scaled"]

LENGTHS = (2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Scaling:
    """Seconds per call of each round, by number of threads."""

    case: Case
    direction: str
    seconds: dict[int, list[float]]

    @property
    def speed_up(self) -> float:
        """Of the most threads over one."""
        return statistics.median(self.seconds[1]) / statistics.median(self.seconds[max(self.seconds)])

    def header(self) -> tuple[str, ...]:
        return ("case", "pass", "1 thread", f"{max(self.seconds)} threads", "speed-up", "rounds")

    def row(self) -> tuple[str, ...]:
        one, most = self.seconds[1], self.seconds[max(self.seconds)]
        return (self.case.name, self.direction, describe(one), describe(most), f"{self.speed_up:.2f}", str(len(one)))

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "speed_up": self.speed_up}


@dataclass(frozen=True)
class Curve:
    """Seconds per call of each round, by length."""

    case: Case
    """At the shortest length."""
    direction: str
    seconds: dict[int, list[float]]

    @property
    def unit(self) -> str:
        """What a causal mask costs in proportion to, and what a window does."""
        return "token" if self.case.mask == "band" else "visible pair"

    def units(self, length: int) -> int:
        return length if self.case.mask == "band" else visible_pairs(replace(self.case, length=length))

    def relative_cost(self) -> dict[int, float]:
        """The median per unit at each length over that at the shortest."""
        cost = {length: statistics.median(taken) / self.units(length) for length, taken in self.seconds.items()}
        first = cost[min(cost)]
        return {length: each / first for length, each in cost.items()}

    def header(self) -> tuple[str, ...]:
        return ("case", "pass", "cost of a", *(f"S={length}" for length in self.seconds), "longest", "rounds")

    def row(self) -> tuple[str, ...]:
        longest = self.seconds[max(self.seconds)]
        costs = (f"{cost:.2f}" for cost in self.relative_cost().values())
        return (self.case.name, self.direction, self.unit, *costs, describe(longest), str(len(longest)))

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "unit": self.unit, "relative_cost": self.relative_cost()}


def scaled() -> tuple[Case, ...]:
    """The problems of `scaling`."""
    return tuple(Case(f"scaling-{dtype}", "causal", dtype, 4096) for dtype in ("bf16", "float32"))


def gain_of_threads(case: Case, threads: int, rounds: int, budget_seconds: float) -> Iterator[Scaling]:
    """The operator on one thread and on `threads`, in turn, in both directions."""
    tensors, gradient = problem(case)
    budget = Budget(budget_seconds)
    before = torch.get_num_threads()
    try:
        for direction in DIRECTIONS:
            run = passes(direction, operator(case), tensors, gradient)
            measures: dict[int, Measure] = {}
            seconds = 0.0
            for count in (1, threads):
                torch.set_num_threads(count)
                measure, taken = warm_up(run)
                measures[count] = _with_threads(count, measure)
                seconds += taken
            yield Scaling(case, direction, interleave(measures, budget.rounds(rounds, seconds)))
    finally:
        torch.set_num_threads(before)


def _with_threads(count: int, measure: Measure) -> Measure:
    def counted() -> float:
        torch.set_num_threads(count)
        return measure()

    return counted


def curves(shortest: int) -> tuple[Case, ...]:
    """The problems of `lengths`: one head, or the longest would take minutes."""
    dtypes = ("float32", "bf16")
    causal = [Case(f"lengths-causal-{dtype}", "causal", dtype, shortest, heads=1, kv_heads=1) for dtype in dtypes]
    band = [Case(f"lengths-band-{dtype}", "band", dtype, shortest, heads=1, kv_heads=1, window=512) for dtype in dtypes]
    return (*causal, *band)


def cost_of_length(case: Case, lengths: Sequence[int], rounds: int, budget_seconds: float) -> Iterator[Curve]:
    """The operator at every length, in turn, in both directions."""
    budget = Budget(budget_seconds)
    problems = {
        length: (operator(long), *problem(long)) for length in lengths for long in [replace(case, length=length)]
    }
    for direction in DIRECTIONS:
        measures: dict[int, Measure] = {}
        seconds = 0.0
        for length, subject in problems.items():
            measures[length], taken = warm_up(passes(direction, *subject))
            seconds += taken
        yield Curve(case, direction, interleave(measures, budget.rounds(rounds, seconds)))
