"""What a benchmark ran on, in words that say nothing of whose machine it is."""

from pathlib import Path

import torch

from ascendspeed.ops import active_isa

__all__ = ["describe"]


def describe() -> dict[str, str | int | None]:
    """Processor (None where /proc does not say), instruction set of our kernels, torch's version, threads."""
    return {
        "cpu": _cpu(),
        "isa": active_isa(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
