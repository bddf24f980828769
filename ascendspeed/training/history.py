"""SAVE/history.jsonl, one line per iteration and per validation, and the curve drawn from it, SAVE/loss.png."""

import json
from pathlib import Path

from ascendspeed.training.save_folder import write_atomically

__all__ = ["History"]


class History:
    """Losses of a training, those before a resume included, on disk as they come. For one process."""

    def __init__(self, folder: Path, iteration: int) -> None:
        """Continue the history in `folder` after `iteration`; what lies after it was never checkpointed and goes."""
        self._folder = folder
        file = folder / "history.jsonl"
        kept = []
        if file.is_file() and iteration > 0:
            for line in file.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                if record["iteration"] <= iteration and not record.get("final"):
                    kept.append(record)
        self._records = kept
        write_atomically(file, "".join(map(_line, kept)))  # a run that is killed here loses no line
        self._file = file.open("a", encoding="utf-8", buffering=1)

    def add(self, record: dict[str, object]) -> None:
        """Append {"iteration": ..., and "loss" or "validation_loss": ...}; floats keep all their digits."""
        self._records.append(record)
        self._file.write(_line(record))

    def draw(self, unigram_entropy: float | None) -> Path:
        """Draw the curve of training and validation loss, with the unigram entropy as a line; return the PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # only here: it takes a second to import
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(xlabel="iteration", ylabel="loss, nats per token")
        for name, style in (("loss", "-"), ("validation_loss", "o-")):
            points = [(r["iteration"], r[name]) for r in self._records if name in r]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "))
        if unigram_entropy is not None:
            label = f"unigram entropy of the validation text, {unigram_entropy:.3f}"
            axes.axhline(unigram_entropy, linestyle="--", color="gray", label=label)
        axes.legend()
        axes.grid(alpha=0.3)
        path = self._folder / "loss.png"
        figure.savefig(path, dpi=120)
        return path

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(record: dict[str, object]) -> str:
    return json.dumps(record) + "\n"
