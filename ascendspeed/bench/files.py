"""Files that a benchmark writes, and whether they can be, asked before it takes its minutes."""

import json
from pathlib import Path
from typing import Any

from ascendspeed.bench.extras import require
from ascendspeed.training.mistakes import Mistake

__all__ = ["check", "write_json"]


def check(json_file: str | None, plot_file: str | None = None) -> None:
    """`Mistake` if a folder is missing, or what draws cannot draw such a file."""
    for flag, file in (("--json", json_file), ("--plot", plot_file)):
        if file is not None and not (folder := Path(file).absolute().parent).is_dir():
            raise Mistake(f"{flag} {file}: there is no folder {folder}; create it first")
    if plot_file is not None:
        require("matplotlib", f"--plot {plot_file}")
        from matplotlib.backend_bases import FigureCanvasBase

        if Path(plot_file).suffix[1:] not in (kinds := FigureCanvasBase.get_supported_filetypes()):
            raise Mistake(f"--plot {plot_file}: no picture format; end it in one of {', '.join(sorted(kinds))}")


def write_json(file: str, content: dict[str, Any]) -> None:
    """The results, one figure per line."""
    Path(file).write_text(json.dumps(content, indent=1) + "\n")
