"""The memory benchmark runs and measures what it says; what it measures is no matter for a test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("heads", ["2", "1"])
def test_the_memory_of_every_mode_is_measured(heads):
    script = str(ROOT / "scripts" / "bench_attention_memory.py")
    command = [sys.executable, script, "--length", "1024", "--heads", "2", "--kv-heads", heads]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    measured = re.findall(r"sparse_mode (\d)  (forward|backward) .* beyond +-?\d+\.\d", result.stdout)
    assert measured == [(str(mode), direction) for mode in range(9) for direction in ("forward", "backward")], (
        result.stdout
    )
    assert re.search(r"the goal of 64 is met", result.stdout), result.stdout
