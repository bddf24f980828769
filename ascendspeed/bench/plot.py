"""Results as a picture: torch's time over ours for each case, and the time of a call against its length."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ascendspeed.bench.attention import DIRECTIONS, Timing
from ascendspeed.bench.studies import Curve

__all__ = ["draw"]

_Lines = dict[str, dict[int, float]]
"""Seconds by length, of each line by its name."""


def draw(timings: Sequence[Timing], curves: Sequence[Curve], file: Path) -> None:
    """Write the picture; the times are those of `curves` if there are any, else of the cases that differ in length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = _by_length(timings, curves)
    panels = bool(timings) + bool(lines)
    cases = len({timing.case.name for timing in timings})
    figure = Figure(figsize=(7 * panels, max(4.0, 1.5 + 0.4 * cases)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])
    if timings:
        _bars(next(axes), timings)
    if lines:
        _times(next(axes), lines)
    figure.savefig(file, dpi=120)


def _bars(axis: Any, timings: Sequence[Timing]) -> None:
    names = list(dict.fromkeys(timing.case.name for timing in timings))
    height = 0.8 / len(DIRECTIONS)
    for number, direction in enumerate(DIRECTIONS):
        found = [timing for timing in timings if timing.direction == direction]
        places = [names.index(timing.case.name) + (number - 0.5) * height for timing in found]
        bars = axis.barh(places, [timing.ratio for timing in found], height, label=direction)
        axis.bar_label(bars, fmt="%.2f", padding=2, fontsize="small")
    axis.axvline(1, color="grey", linewidth=1)
    axis.set(yticks=range(len(names)), yticklabels=names, xmargin=0.12, xlabel="torch's time / ours")
    axis.invert_yaxis()
    axis.legend()


def _times(axis: Any, lines: _Lines) -> None:
    for name, seconds in lines.items():
        axis.plot(list(seconds), [1e3 * each for each in seconds.values()], marker="o", label=name)
    axis.set(xscale="log", yscale="log", xlabel="S, tokens", ylabel="ours, ms per call")
    lengths = sorted({length for seconds in lines.values() for length in seconds})
    axis.set_xticks(lengths, [str(length) for length in lengths], minor=False)
    axis.minorticks_off()
    axis.legend(fontsize="small")


def _by_length(timings: Sequence[Timing], curves: Sequence[Curve]) -> _Lines:
    lines: _Lines = defaultdict(dict)
    for curve in curves:
        for length, taken in curve.seconds.items():
            lines[f"{curve.case.mask} {curve.case.dtype}, {curve.direction}"][length] = statistics.median(taken)
    if not curves:
        for timing in timings:
            case = timing.case
            name = f"{case.mask} {case.dtype} N={case.heads} D={case.head_size}, {timing.direction}"
            lines[name][case.length] = statistics.median(timing.seconds["ours"])
    return {name: dict(sorted(seconds.items())) for name, seconds in lines.items() if len(seconds) > 1}
