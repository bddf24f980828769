"""A device that fails ends the whole job: one traceback on a rank, with the cause in it, and nobody waits for ever.

torchrun ends the ranks that still run as soon as one has failed, so a rank that is not to blame may say nothing.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.settings import SMALL

pytestmark = pytest.mark.distributed

# Two calls of each layer's gradient are the attention contract's; the eighth is the third iteration's.
GRADIENT = "function=aclnnFlashAttentionScoreGradV2"
BACKWARD = f"call=8,{GRADIENT},device=1"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def train(cache: Path, **variables: str) -> str:
    """What a job of two ranks writes to standard error until it has ended, with a failure."""
    flags = [*SMALL, "--device", "npu", "--vocab-size", "300", "--split", "90,10,0", "--data-cache-path", str(cache)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ascendspeed.training.pretrain_gpt", *flags]
    command += ["--tensor-model-parallel-size", "2", "--sequence-parallel"]
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0, done.stdout
    for noise in ("During handling of the above exception", "terminate called", "frame #0"):
        assert noise not in done.stderr
    return done.stderr


def errors(said: str) -> dict[int, str]:
    """Rank -> its traceback, which is its only one."""
    found: dict[int, str] = {}
    for rank in (0, 1):
        lines = [line for line in said.splitlines() if line.startswith(f"[rank{rank}]: ")]
        if lines:
            assert [line.partition(": ")[2] for line in lines].count("Traceback (most recent call last):") == 1, said
            found[rank] = "\n".join(lines)
    return found


@pytest.mark.parametrize(
    ("phase", "task_queue", "code"),
    [("first", "1", "561103"), ("second", "1", "361001"), ("stream", "1", "507015"), ("stream", "0", "507015")],
)
def test_an_operator_that_fails_is_named(cache, phase, task_queue, code):
    said = errors(
        train(cache, ASCENDSPEED_HOSTCANN_FAULT=f"aclnn:phase={phase},{BACKWARD}", TASK_QUEUE_ENABLE=task_queue)
    )
    assert re.search(rf"{code}.*aclnnFlashAttentionScoreGradV2.*call 8 on device 1", said[1], re.DOTALL) or re.search(
        rf"aclnnFlashAttentionScoreGradV2.*call 8 on device 1.*{code}", said[1], re.DOTALL
    )
    if 0 in said:  # it was quicker than torchrun
        assert re.search(r"rank 1 \(process \d+\) has died", said[0])


def test_memory_that_runs_out_is_said_with_the_sizes(cache):
    said = errors(train(cache, ASCENDSPEED_HOSTCANN_MEMORY=str(16 * 2**20)))
    assert said
    for error in said.values():
        assert "OutOfMemoryError: NPU out of memory. Tried to allocate 20.00 MiB" in error
        assert "16.00 MiB total capacity" in error


def test_a_rank_that_is_late_is_waited_for_no_longer_than_the_limit(cache):
    """Ten minutes late; the job ends, or this test does by its own limit, long before."""
    said = errors(train(cache, ASCENDSPEED_HOSTCANN_FAULT="hccl:call=60,delay=600,device=0", HCCL_EXEC_TIMEOUT="5"))
    assert said
    for error in said.values():
        assert re.search(r"rank 1 \(process \d+\) has waited 5 s \(HCCL_EXEC_TIMEOUT\) for rank 0", error)


def test_a_rank_that_dies_ends_the_job(cache):
    said = train(cache, ASCENDSPEED_HOSTCANN_FAULT="hccl:call=60,die,device=0")
    assert re.search(r"rank +: 0 .*exitcode +: -9 ", said, re.DOTALL)  # torchrun's own report names the cause
    spoke = errors(said)
    assert 0 not in spoke
    if 1 in spoke:  # it was quicker than torchrun
        assert re.search(r"rank 0 \(process \d+\) has died", spoke[1])
