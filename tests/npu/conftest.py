"""Tests that need torch_npu, on host CANN: bash scripts/hostcann.sh python -m pytest tests/npu"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# Most read what host CANN records, or make it fail: they are not for a card.
HERE = importlib.util.find_spec("torch_npu") is not None and not list(Path("/dev").glob("davinci[0-9]*"))
collect_ignore_glob = [] if HERE else ["test_*.py"]

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_report_header() -> str | None:
    return None if HERE else "tests/npu: left out, they run on host CANN (scripts/hostcann.sh)"


@pytest.fixture(scope="session")
def run() -> Run:
    """run(source, argument, VARIABLE=value): a Python program, at most two minutes, with its output and exit code."""

    def run_source(source: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command, environment = [sys.executable, "-c", source, *arguments], os.environ | variables
        return subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )

    return run_source


class Trace:
    """The aclnn calls made so far, as host CANN has recorded them."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def first_phases(self) -> list[dict[str, Any]]:
        """`function` without GetWorkspaceSize, and its `arguments`, of the calls of the operator."""
        torch.npu.synchronize()
        records = [json.loads(line) for line in self.file.read_text().splitlines()]
        assert all(record["status"] == 0 for record in records), records
        suffix = "GetWorkspaceSize"
        return [
            {**record, "function": record["function"].removesuffix(suffix)}
            for record in records
            if record["function"].startswith("aclnnFlashAttention") and record["function"].endswith(suffix)
        ]


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trace]:
    torch.npu.synchronize()
    monkeypatch.setenv("ASCENDSPEED_HOSTCANN_TRACE", str(tmp_path / "trace.jsonl"))
    yield Trace(tmp_path / "trace.jsonl")
    torch.npu.synchronize()
