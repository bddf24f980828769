"""The benchmarks run and measure what they say; what they measure is no matter for a test."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_timing_compares_with_torch():
    output = run("bench_flash_attention.py", "--length", "128", "--heads", "2", "--rounds", "1", "--dtype", "bfloat16")
    assert re.search(r"forward\+backward +torch .* ms .* ours .* ratio \d+\.\d\d", output), output


@pytest.mark.parametrize("heads", ["2", "1"])
def test_the_memory_of_every_mode_is_measured(heads):
    output = run("bench_attention_memory.py", "--length", "1024", "--heads", "2", "--kv-heads", heads)
    measured = re.findall(r"sparse_mode (\d)  (forward|backward) .* beyond +-?\d+\.\d", output)
    assert measured == [(str(mode), direction) for mode in range(9) for direction in ("forward", "backward")], output
    assert re.search(r"the goal of 64 is met", output), output
