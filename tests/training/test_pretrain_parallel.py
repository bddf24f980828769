"""The whole program on 2 x 2 ranks: what was interrupted goes on with the same bits, also in new processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ascendspeed.training import flags
from tests.support.ranks import run_ranks
from tests.training.test_pretrain_gpt import TINY, history, losses

pytestmark = pytest.mark.distributed

DROPOUT = ["--num-layers", "4", "--hidden-dropout", "0.1", "--global-batch-size", "8", "--eval-interval", "2"]
TP_PP = ["--tensor-model-parallel-size", "2", "--sequence-parallel", "--pipeline-model-parallel-size", "2"]
_INTERLEAVED = """
    --pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 2 --use-distributed-optimizer
    --overlap-grad-reduce --ddp-bucket-size 9999 --overlap-param-gather --bf16
"""
INTERLEAVED = _INTERLEAVED.split()
SHARDED = ["--tensor-model-parallel-size", "2", "--use-distributed-optimizer"]


def _train_each(commands: list[list[str]]) -> tuple[int, list[float]]:
    """On each rank: train each command in turn; then its pipeline stage in the first one, and what is drawn there."""
    from megatron.core import parallel_state

    from ascendspeed.training.initialize import world
    from ascendspeed.training.loop import train

    for command in commands:
        train(flags.parse(command, world_size=4))
    with world(flags.parse(commands[0], world_size=4)):
        return parallel_state.get_pipeline_model_parallel_rank(), torch.rand(3).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Of each way to cut: a run that was never interrupted, and one that was; two of those have gone on.

    It has been seen on the way that each stage draws numbers of its own, as Megatron-LM's seeds make it.
    """
    folder = tmp_path_factory.mktemp("parallel")

    def command(name: str, how: list[str], *more: str) -> list[str]:
        save = str(folder / name)
        cache = str(folder / "cache")
        return [*TINY, *DROPOUT, *how, "--data-cache-path", cache, "--save", save, "--load", save, *more]

    commands = []
    for name, how in (("tp-pp", TP_PP), ("interleaved", INTERLEAVED), ("sharded", SHARDED)):
        commands += [command(name, how), command(f"{name} again", how, "--exit-interval", "3")]
        if name != "interleaved":
            commands.append(command(f"{name} again", how))
    draws = dict(run_ranks(4, _train_each, commands, timeout=400))
    assert draws[0] != draws[1]
    return folder


@pytest.mark.parametrize("name", ["tp-pp", "sharded"])
def test_a_resumed_run_is_the_uninterrupted_one(folder, name):
    assert losses(folder / name)[-1] < losses(folder / name)[0]
    assert [r["iteration"] for r in history(folder / name) if "validation_loss" in r] == [2, 4, 6]
    assert history(folder / f"{name} again") == history(folder / name)


def test_torchrun_resumes_an_interleaved_pipeline_with_a_distributed_optimizer(folder):
    save = str(folder / "interleaved again")
    assert len(losses(Path(save))) == 3
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    command += ["-m", "ascendspeed.training.pretrain_gpt", *TINY, *DROPOUT, *INTERLEAVED]
    command += ["--data-cache-path", str(folder / "cache"), "--save", save, "--load", save]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "pipeline parallel 2 with 2 model chunks each" in done.stdout
    assert "attention layers 1-4 | mask causal" in done.stdout
    assert history(Path(save)) == history(folder / "interleaved")
