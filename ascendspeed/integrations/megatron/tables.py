"""Writes the tables of docs/megatron.md from the tables the code runs by.

python -m ascendspeed.integrations.megatron.tables docs/megatron.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ascendspeed.device.cuda_scripts import SCRIPT_ROWS
from ascendspeed.device.cuda_shim import ROWS, Row
from ascendspeed.integrations.megatron.masks import MAPPING
from ascendspeed.integrations.megatron.patches import PATCHES

__all__ = ["filled", "mapping_table", "patches_table", "shim_table"]


def filled(document: str) -> str:
    """The document with each table replaced: what stands between `<!-- table NAME -->` and `<!-- end NAME -->`.

    Raises:
        ValueError: a table has no place in the document.
    """
    for name, table in (
        ("mapping", mapping_table()),
        ("patches", patches_table()),
        ("shim", shim_table()),
        ("scripts", shim_table(SCRIPT_ROWS)),
    ):
        place = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        found = place.search(document)
        if found is None:
            raise ValueError(
                f"the document has no place for table {name!r}: <!-- table {name} --> ... <!-- end {name} -->"
            )
        document = document[: found.end(1)] + table + document[found.start(2) :]
    return document


def mapping_table() -> str:
    """What a layer's mask and its attention_mask argument become, as Markdown."""
    given = {"nothing": "None", "mask": "bool, True = left out", "lengths": "int64 [B or documents]"}
    tensors = {None: "none", 1: "[B, 1, Sq, Skv]", 6: "[3072, 2048]"}
    return _markdown(
        ("mask", "attention_mask", "window_size", "packed", "sparse_mode", "atten_mask", "keys query i sees"),
        (
            (
                row.kind,
                given[row.given],
                "(left, right)" if row.window else "None",
                "yes" if row.packed else "no",
                "0, unused" if row.sparse_mode is None else str(row.sparse_mode),
                tensors.get(row.sparse_mode, "[2048, 2048]"),
                row.keeps,
            )
            for row in MAPPING
        ),
    )


def patches_table() -> str:
    """Every attribute of Megatron that the adaptor replaces, as Markdown."""
    return _markdown(
        ("replaced", "megatron-core", "because"),
        (
            (
                f"`{patch.target.removeprefix('megatron.core.')}`",
                patch.versions + {None: "", True: ", with TE", False: ", without TE"}[patch.with_te],
                patch.reason,
            )
            for patch in PATCHES
        ),
    )


def shim_table(rows: Sequence[Row] = ROWS) -> str:
    """Every attribute that the shim, or a further table of it, replaces, and the call that needs it, as Markdown."""
    return _markdown(
        ("replaced", "on", "needed by", "because"),
        (
            (f"`{row.target}`", ", ".join(row.on), f"`{row.needed_by.removeprefix('megatron.core.')}`", row.reason)
            for row in rows
        ),
    )


def _markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text()))
