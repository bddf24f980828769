"""`attention`: the measurements that were asked for, one after the other, told on stderr; the tables on stdout."""

import fnmatch
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ascendspeed.bench import files, machine
from ascendspeed.bench.attention import DIRECTIONS, Timing, time_case
from ascendspeed.bench.cases import CASES, Case
from ascendspeed.bench.extras import require
from ascendspeed.bench.plot import draw
from ascendspeed.bench.studies import (
    LENGTHS,
    Curve,
    Scaling,
    cost_of_length,
    curves,
    gain_of_threads,
    scaled,
)
from ascendspeed.bench.tables import Result, markdown, table
from ascendspeed.bench.timing import LEAST_ROUNDS
from ascendspeed.training.mistakes import Mistake

__all__ = ["NAMES", "Results", "describe_all", "main", "measure", "select"]

_STUDIES = {
    "scaling": "1 thread and all of them, causal, S=4096",
    "lengths": f"what a visible pair costs from S={LENGTHS[0]} to {LENGTHS[-1]}, and with a window of 512 a token",
}
NAMES = (*(case.name for case in CASES), *_STUDIES)


@dataclass
class Results:
    """What was measured."""

    timings: list[Timing] = field(default_factory=list)
    scaling: list[Scaling] = field(default_factory=list)
    lengths: list[Curve] = field(default_factory=list)


def main(
    *,
    cases: Sequence[str] | None = None,
    rounds: int = 7,
    budget: float = 120.0,
    threads: int | None = None,
    json: str | None = None,
    plot: str | None = None,
) -> None:
    """Measure and print the cases of these names or patterns (None: all), and write the files that are asked for.

    `budget` is seconds per case. `Mistake`, before anything is measured, if that cannot be done.
    """
    files.check(json, plot)
    require("tqdm", "a benchmark")
    if threads is not None:
        torch.set_num_threads(threads)
    names = select(cases)
    if plot is not None and names == ["scaling"]:
        raise Mistake(f"--plot {plot}: scaling has no picture; name other cases too")
    described = machine.describe()
    print(", ".join(f"{name} {value}" for name, value in described.items()), flush=True)
    results = measure(names, rounds, budget)
    groups: dict[str, Sequence[Result]] = vars(results)
    for found in groups.values():
        if found:
            print(f"\n{table(found)}")
    if json is not None:
        plain = {name: [result.plain() for result in found] for name, found in groups.items()}
        files.write_json(json, {"machine": described, **plain})
    if plot is not None:
        draw(results.timings, results.lengths, Path(plot))


def select(patterns: Sequence[str] | None) -> list[str]:
    """The names that match, in the order of NAMES; `Mistake` for a pattern that none does, or that cannot be timed."""
    for pattern in patterns or ():
        if not fnmatch.filter(NAMES, pattern):
            raise Mistake(f"--cases {pattern}: there is no such case; --list names them all")
    names = [name for name in NAMES if patterns is None or any(fnmatch.fnmatch(name, each) for each in patterns)]
    if "scaling" in names and torch.get_num_threads() == 1:
        if patterns is not None:
            raise Mistake("--cases scaling compares 1 thread with all of them, which is 1 here; --threads 2 makes it 2")
        print("scaling is left out: there is 1 thread", file=sys.stderr)
        names.remove("scaling")
    return names


def describe_all() -> str:
    """What --list prints."""
    rows = [(case.name, *_words(case)) for case in CASES]
    rows += [(name, text, "") for name, text in _STUDIES.items()]
    return markdown(("name", "problem, B=1", "torch"), rows)


def _words(case: Case) -> tuple[str, str]:
    sizes = f"N={case.heads} Nkv={case.kv_heads} Sq={case.length} Skv={case.key_length} D={case.head_size}"
    mask = {"band": f"band of {case.window}", "prefix": f"prefix of {case.prefix}"}.get(case.mask, case.mask)
    theirs = {"causal": "is_causal", "full": "no mask"}.get(case.mask, "dense bool mask")
    return f"{mask}, {case.dtype}, {sizes}", theirs


def measure(names: Sequence[str], rounds: int, budget_seconds: float) -> Results:
    """Every one of `names`, each with `budget_seconds` of its own."""
    from tqdm import tqdm

    results = Results()
    by_name = {case.name: case for case in CASES}
    plan: list[tuple[str, Iterator[Result], list[Any]]] = []
    for name in names:
        if name == "scaling":
            threads = torch.get_num_threads()
            plan += [(c.name, gain_of_threads(c, threads, rounds, budget_seconds), results.scaling) for c in scaled()]
        elif name == "lengths":
            plan += [
                (c.name, cost_of_length(c, LENGTHS, rounds, budget_seconds), results.lengths)
                for c in curves(LENGTHS[0])
            ]
        else:
            plan += [(name, time_case(by_name[name], rounds, budget_seconds), results.timings)]
    passes = len(plan) * len(DIRECTIONS)
    least = min(rounds, LEAST_ROUNDS)
    print(
        f"{passes} passes of {rounds} rounds, fewer after {budget_seconds:g} s of a case but at least {least}",
        file=sys.stderr,
    )
    with tqdm(total=passes, unit="pass", file=sys.stderr) as bar:
        for name, measured, found in plan:
            bar.set_description(name)
            for result in measured:
                found.append(result)
                bar.write("  ".join(result.row()), file=sys.stderr)
                bar.update()
    return results
