"""Training on the NPU gives the losses of the CPU: every digit of them, for the reasons test_megatron.py gives."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ascendspeed.training import flags
from tests.examples.test_pretrain_gpt import environment
from tests.support.ranks import run_ranks
from tests.training.settings import SMALL

ROOT = Path(__file__).resolve().parents[2]
DATA = ["--vocab-size", "300", "--split", "97,3,0"]
TP2 = ["--tensor-model-parallel-size", "2", "--sequence-parallel"]
RECOMPUTED = ["--recompute-granularity", "full", "--recompute-method", "uniform", "--recompute-num-layers", "1"]
KINDS = {"bfloat16, recomputed": [*TP2, "--bf16", *RECOMPUTED], "data parallel": ["--global-batch-size", "8"]}

pytestmark = pytest.mark.distributed


def history(save: Path) -> list[dict]:
    return [json.loads(line) for line in (save / "history.jsonl").read_text().splitlines()]


def launch(save: Path, device: str, *more: str) -> list[dict]:
    """The history of a small run of the launcher's command. One thread per rank: how many add decides the rounding."""
    size = "--num-layers 2 --hidden-size 64 --seq-length 32 --max-position-embeddings 32 --micro-batch-size 2"
    settings = environment(OMP_NUM_THREADS=1, DEVICE=device, SAVE_DIR=save)
    launcher = ["bash", ROOT / "examples" / "pretrain_gpt.sh", *size.split(), *DATA, "--train-iters", "20", *more]
    command = subprocess.run(launcher, env=settings | {"DRY_RUN": "1"}, capture_output=True, text=True, check=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", *shlex.split(command.stdout.splitlines()[0])[1:]]
    done = subprocess.run(torchrun, env=settings, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"world: 2 on {device} ({'hccl' if device == 'npu' else 'gloo'})" in done.stdout
    return history(save)


def test_the_launchers_losses_are_the_cpus(tmp_path):
    cache = ["--data-cache-path", str(tmp_path / "cache")]
    expected = launch(tmp_path / "cpu", "cpu", *cache)
    assert len([record for record in expected if "loss" in record]) == 20
    assert expected[19]["loss"] < expected[0]["loss"]
    assert launch(tmp_path / "npu", "npu", *cache) == expected


def _train_each(device: str, folder: str) -> None:
    """On each of two ranks: a run of every kind."""
    from ascendspeed.training.loop import train

    for kind, more in KINDS.items():
        command = [*SMALL, *DATA, "--device", device, "--data-cache-path", f"{folder}/cache", "--eval-iters", "2"]
        command += ["--use-cpu-initialization", "--save", f"{folder}/{device}/{kind}", *more]
        train(flags.parse(command, world_size=2))


def test_losses_of_every_kind_are_the_cpus_without_a_task_queue_too(tmp_path, monkeypatch):
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "0")
    for device in ("cpu", "npu"):
        run_ranks(2, _train_each, device, str(tmp_path), device=device)
    for kind in KINDS:
        expected = history(tmp_path / "cpu" / kind)
        assert len(expected) == 7
        assert history(tmp_path / "npu" / kind) == expected, kind
