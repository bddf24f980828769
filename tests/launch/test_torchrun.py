"""scripts/launch/torchrun.py: what the processes find in their environment."""

import subprocess
import sys

import pytest

from tests.examples.test_pretrain_gpt import ROOT
from tests.launch.hosts import clean


@pytest.mark.distributed
@pytest.mark.parametrize("level", ["ERROR", None])
def test_the_processes_have_the_users_level_of_torchs_log(level):
    command = [sys.executable, "scripts/launch/torchrun.py", "--standalone", "--nproc-per-node", "1", "--no-python"]
    done = subprocess.run(
        [*command, "bash", "-c", "echo ${TORCH_CPP_LOG_LEVEL:-its own}"],
        cwd=ROOT,
        env=clean(**({"TORCH_CPP_LOG_LEVEL": level} if level else {})),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, [level or "its own"]), done.stderr
