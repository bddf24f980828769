"""Results as Markdown, aligned, to be read on a terminal and pasted into docs/performance.md."""

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Result", "markdown", "table"]


class Result(Protocol):
    """One measurement."""

    def header(self) -> tuple[str, ...]:
        """The columns; the same of all results of a kind."""

    def row(self) -> tuple[str, ...]:
        """The cells."""

    def plain(self) -> dict[str, Any]:
        """Everything, the figures of each round included, as JSON takes it."""


def table(results: Sequence[Result]) -> str:
    """Results of one kind, a line each."""
    return markdown(results[0].header(), [result.row() for result in results])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
