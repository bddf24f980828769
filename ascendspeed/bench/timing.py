"""Timing by rounds: every subject once in each, so that what changes on the machine meanwhile meets all alike."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

__all__ = ["LEAST_ROUNDS", "Budget", "Measure", "describe", "interleave", "warm_up"]

LEAST_ROUNDS = 3  # a median of fewer says nothing of the spread
_LEAST_SECONDS = 0.02  # of a subject in a round: far above the clock's resolution and a scheduler's tick
_LONG = 1.0  # seconds of a call beside which warming up is nothing

Measure = Callable[[], float]
"""One round of one subject: its figure, mostly seconds per call."""

Subject = TypeVar("Subject", bound=Hashable)


class Budget:
    """Seconds that a case may take: what is left of them limits the rounds."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    def rounds(self, wanted: int, seconds_per_round: float) -> int:
        """`wanted`, or as many as there is time for, but at least LEAST_ROUNDS (if so many are wanted)."""
        affordable = int((self._end - time.perf_counter()) / seconds_per_round)
        return min(wanted, max(LEAST_ROUNDS, affordable))


def warm_up(run: Callable[[], object]) -> tuple[Measure, float]:
    """Call `run` until it is warm; returns one round of it, and the seconds a round takes.

    A round is as many calls as fill 20 ms, its figure the seconds of one.
    """
    calls, taken = 1, _seconds(run, 1)
    if taken < _LONG:  # it tells how long a call takes; memory, code and caches may have been most of the first
        taken = _seconds(run, 1)
    while taken < _LEAST_SECONDS:
        calls = max(2 * calls, math.ceil(1.2 * calls * _LEAST_SECONDS / taken))
        taken = _seconds(run, calls)
    return lambda: _seconds(run, calls) / calls, taken


def _seconds(run: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def interleave(measures: Mapping[Subject, Measure], rounds: int) -> dict[Subject, list[float]]:
    """The figures of every round, by subject: first, second, ..., first, second, ..."""
    figures: dict[Subject, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            figures[name].append(measure())
    return figures


def describe(seconds: list[float]) -> str:
    """Median, fastest and slowest: `77.7 ms (68.9-83.7)`."""
    middle = statistics.median(seconds)
    unit, scale = ("s", 1.0) if middle >= 10 else ("ms", 1e3) if middle >= 1e-3 else ("µs", 1e6)
    return f"{scale * middle:.1f} {unit} ({scale * min(seconds):.1f}-{scale * max(seconds):.1f})"
