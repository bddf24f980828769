"""The DeepSpeed example starts the module that trains under DeepSpeed, with the flags of its settings."""

import os
import shlex
import subprocess
from pathlib import Path

from ascendspeed.training.deepspeed import flags

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "deepspeed" / "pretrain_gpt.sh"


def start(*more: str, **settings: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(
        ["bash", SCRIPT, *more],
        env=environment | {"DRY_RUN": "1"} | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def command(*more: str, **settings: str) -> list[str]:
    done = start(*more, **settings)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout.splitlines()[0])


def test_two_processes_share_each_sequence_under_zero_2():
    words = command("--bf16")
    assert words[:3] == ["torchrun", "--nproc-per-node", "2"]
    module = words.index("ascendspeed.training.deepspeed.pretrain_gpt")
    run, settings = flags.parse(words[module + 1 :], world_size=2)
    assert (run.sequence_slices, run.deepspeed.zero_stage, settings["bf16"]) == (2, 2, {"enabled": True})
    assert run.checkpoint.save == run.checkpoint.load == "runs/deepspeed"


def test_the_settings_become_flags():
    words = command(
        "--ds-sequence-parallel-size", "4", NPROC_PER_NODE="8", SAVE_DIR="x", DATA_PATH="a.txt", DEVICE="cpu"
    )
    run, _ = flags.parse(words[words.index("ascendspeed.training.deepspeed.pretrain_gpt") + 1 :], world_size=8)
    assert (run.sequence_slices, run.data_parallel_size, run.global_batch_size) == (4, 2, 8)
    assert (run.checkpoint.save, run.data.data_path, run.parallel.device) == ("x", ("a.txt",), "cpu")


def test_an_odd_number_of_processes_shares_nothing():
    words = command(NPROC_PER_NODE="3")
    run, _ = flags.parse(words[words.index("ascendspeed.training.deepspeed.pretrain_gpt") + 1 :], world_size=3)
    assert (run.sequence_slices, run.global_batch_size) == (1, 12)


def test_a_size_that_is_none_is_refused():
    done = start("--ds-sequence-parallel-size", "two")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "pretrain_gpt.sh: --ds-sequence-parallel-size two must be a whole number of at least 1"
    )
