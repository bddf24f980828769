"""examples/pretrain_gpt.sh: the one command it makes, the settings it refuses, and how a job it started ends."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ascendspeed.training import flags as training_flags
from ascendspeed.training.mistakes import Mistake

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "pretrain_gpt.sh"
SETTINGS = {"NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "MAX_RESTARTS", "RENDEZVOUS_SECONDS"}
SETTINGS |= {"DEVICE", "DATA_PATH", "SAVE_DIR"}


def environment(**variables: object) -> dict[str, str]:
    """This process's environment without the launcher's settings, which a test states itself."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS | {"DRY_RUN"}}
    return clean | {name: str(value) for name, value in variables.items()}


def dry_run(*arguments: str, **variables: object) -> list[str]:
    """The words of the printed command."""
    result = subprocess.run(
        ["bash", SCRIPT, *arguments], env=environment(DRY_RUN=1, **variables), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return shlex.split(result.stdout.splitlines()[0])  # what follows is the environment


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """torchrun's part and the trainer's flags."""
    at = words.index("ascendspeed.training.pretrain_gpt")
    return words[: at - 1], words[at + 1 :]


def value(words: list[str], flag: str) -> str:
    """The value that counts: the last one."""
    return words[len(words) - words[::-1].index(flag)]


def copy_of_the_scripts(folder: Path) -> Path:
    """A checkout with the launcher and without what it would set up."""
    checkout = folder / "checkout"
    (checkout / "examples").mkdir(parents=True)
    shutil.copy(SCRIPT, checkout / "examples")
    shutil.copytree(ROOT / "scripts" / "launch", checkout / "scripts" / "launch")
    return checkout


def test_by_default_two_processes_share_the_model_on_this_machine():
    torchrun, flags = split(dry_run())
    assert torchrun == ["torchrun", "--nproc-per-node", "2", "--standalone", "--local-addr", "127.0.0.1"]
    assert value(flags, "--tensor-model-parallel-size") == "2"
    assert "--sequence-parallel" in flags
    assert value(flags, "--save") == value(flags, "--load") == "runs/gpt"
    assert "--data-path" not in flags
    assert "--device" not in flags


def test_one_process_is_not_split():
    _, flags = split(dry_run(NPROC_PER_NODE=1))
    assert value(flags, "--tensor-model-parallel-size") == "1"
    assert "--sequence-parallel" not in flags


@pytest.mark.parametrize("form", ["--tensor-model-parallel-size {}", "--tensor-model-parallel-size={}"])
@pytest.mark.parametrize(("processes", "size"), [(2, 1), (4, 4), (8, 1), (8, 4)])
def test_a_tensor_parallel_size_of_the_callers_decides_what_follows_from_it(processes, size, form):
    _, flags = split(dry_run(*form.format(size).split(), NPROC_PER_NODE=processes))
    assert ("--sequence-parallel" in flags) == (size > 1)
    run = training_flags.parse(flags, world_size=processes)
    assert run.parallel.tensor_model_parallel_size == size
    assert run.training.global_batch_size == max(8, 4 * processes // size)


@pytest.mark.parametrize(
    ("arguments", "iterations"),
    [("", 20), ("--train-iters 20", 1), ("--train-iters=8", 0), ("--train-iters 8 --train-iters=3000", 20)],
)
def test_the_warm_up_fits_into_a_run_of_any_length(arguments, iterations):
    _, flags = split(dry_run(*arguments.split()))
    assert training_flags.parse(flags, world_size=2).lr_warmup_iters == iterations


@pytest.mark.parametrize("number", ["many", "-5", ""])
def test_a_number_of_iterations_that_is_none_is_the_trainers_to_refuse(number):
    _, flags = split(dry_run("--train-iters", number))
    with pytest.raises(Mistake):
        training_flags.parse(flags, world_size=2)


def test_a_tensor_parallel_size_that_is_no_number_is_refused():
    arguments = ["bash", SCRIPT, "--tensor-model-parallel-size", "two"]
    result = subprocess.run(arguments, env=environment(DRY_RUN=1), capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "pretrain_gpt.sh: --tensor-model-parallel-size two must be a whole number of at least 1\n"


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8, 16, 256])
def test_the_trainer_accepts_the_flags_for_any_number_of_processes(processes):
    _, flags = split(dry_run(NPROC_PER_NODE=processes, SAVE_DIR="here", DATA_PATH="text.txt", DEVICE="cpu"))
    run = training_flags.parse(flags, world_size=processes)
    assert run.world_size == processes
    assert (run.checkpoint.save, run.checkpoint.load, run.data.data_path) == ("here", "here", ("text.txt",))
    assert run.parallel.device == "cpu"


def test_a_tokenizer_of_the_callers_decides_the_size_of_the_vocabulary():
    _, flags = split(dry_run())
    assert value(flags, "--vocab-size") == "2048"
    for further in (["--tokenizer-model", "a.json"], ["--bf16", "--tokenizer-model=a.json"]):
        _, flags = split(dry_run(*further))
        assert "--vocab-size" not in flags


def test_further_flags_come_last_and_word_for_word():
    words = dry_run("--bf16", "--save", "a folder", "--lr", "1e-5")
    assert words[-5:] == ["--bf16", "--save", "a folder", "--lr", "1e-5"]


def test_data_and_output_are_the_callers_paths():
    _, flags = split(dry_run(DATA_PATH="my text.txt", SAVE_DIR="out dir"))
    assert value(flags, "--data-path") == "my text.txt"
    assert value(flags, "--save") == value(flags, "--load") == "out dir"


def test_the_device_is_the_trainers_flag():
    _, flags = split(dry_run(DEVICE="npu"))
    assert value(flags, "--device") == "npu"


def test_a_port_is_honoured():
    torchrun, _ = split(dry_run(MASTER_PORT=23456))
    assert value(torchrun, "--rdzv-endpoint") == "127.0.0.1:23456"
    assert value(torchrun, "--nnodes") == "1"


def test_every_node_of_a_cluster_runs_the_same_line_but_for_its_rank():
    lines = [dry_run(NNODES=4, NODE_RANK=rank, MASTER_ADDR="node0.invalid", NPROC_PER_NODE=8) for rank in range(4)]
    for rank, words in enumerate(lines):
        at = words.index("--rdzv-conf") + 1
        assert words[at] == f"node_rank={rank},is_host={int(rank == 0)},join_timeout=600,read_timeout=600"
        words[at] = "?"
    assert lines[0] == lines[1] == lines[2] == lines[3]
    assert " ".join(lines[0][:13]) == (
        "torchrun --nproc-per-node 8 --nnodes 4 --rdzv-backend c10d --rdzv-endpoint node0.invalid:29500 "
        "--rdzv-id ascendspeed --rdzv-conf ?"
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"NPROC_PER_NODE": "two"}, ["NPROC_PER_NODE=two"]),
        ({"NPROC_PER_NODE": "0"}, ["NPROC_PER_NODE=0", "at least 1"]),
        ({"NNODES": "-1"}, ["NNODES=-1"]),
        ({"NNODES": "2"}, ["NODE_RANK (0 to 1", "MASTER_ADDR"]),
        ({"NNODES": "2", "NODE_RANK": "0"}, ["MASTER_ADDR"]),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "node0"}, ["NODE_RANK=2", "0 to 1"]),
        ({"NODE_RANK": "1"}, ["NODE_RANK=1", "NNODES=1"]),
        ({"NODE_RANK": "first"}, ["NODE_RANK=first"]),
        ({"MASTER_PORT": "70000"}, ["MASTER_PORT=70000", "1 to 65535"]),
        ({"MAX_RESTARTS": "-1"}, ["MAX_RESTARTS=-1", "at least 0"]),
        ({"RENDEZVOUS_SECONDS": "soon"}, ["RENDEZVOUS_SECONDS=soon", "whole number of seconds"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name(variables, words):
    result = subprocess.run(
        ["bash", SCRIPT], env=environment(DRY_RUN=1, **variables), capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def test_a_dry_run_needs_nothing_but_a_shell(tmp_path):
    checkout = copy_of_the_scripts(tmp_path)
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    result = subprocess.run(
        [tmp_path / "bash", checkout / "examples" / "pretrain_gpt.sh"],
        env={"PATH": str(tmp_path), "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("torchrun ")


# The launcher with the real torchrun, and a trainer that each test writes.


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the launcher on a trainer with the given source, in a folder where ranks leave files."""
    checkout = copy_of_the_scripts(tmp_path)
    (checkout / "scripts" / "setup.sh").write_text(
        f'[[ "$*" == train ]] || exit 9\necho {shlex.quote(sys.executable)}\n'
    )
    package = tmp_path / "work" / "ascendspeed" / "training"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / "__init__.py").write_text("")

    def start(trainer: str, **variables: object) -> subprocess.Popen[str]:
        (package / "pretrain_gpt.py").write_text(
            "import os, sys, time\nfrom pathlib import Path\nrank = os.environ['RANK']\n" + trainer
        )
        return subprocess.Popen(
            ["bash", checkout / "examples" / "pretrain_gpt.sh"],
            cwd=tmp_path / "work",
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def wait_for(files: list[Path]) -> None:
    deadline = time.monotonic() + 60
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, f"{files} did not appear"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that only waits for its parent to notice has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


REPORT = "Path(f'rank{rank}.pid').write_text(str(os.getpid()))\n"


def test_a_job_runs_every_rank_with_the_flags_and_its_share_of_the_cores(job, tmp_path):
    trainer = "Path(f'rank{rank}').write_text(f\"{sys.argv[-1]} {os.environ['OMP_NUM_THREADS']}\")\n"
    process = job(trainer, DEVICE="cpu", NPROC_PER_NODE=2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    threads = max(1, int(os.sysconf("SC_NPROCESSORS_ONLN")) // 2)
    wanted = os.environ.get("OMP_NUM_THREADS", str(threads))
    assert [(tmp_path / "work" / f"rank{rank}").read_text() for rank in (0, 1)] == [f"cpu {wanted}"] * 2


def test_two_jobs_run_at_once_on_one_machine(job, tmp_path):
    # Each job lasts until the other one has formed its process group as well.
    trainer = (
        "import torch.distributed\ntorch.distributed.init_process_group('gloo')\n"
        "Path(os.environ['SAVE_DIR'] + rank).write_text('')\n"
        "names = ['a0', 'a1', 'b0', 'b1']\n"
        "while not all(Path(name).exists() for name in names): time.sleep(0.05)\n"
    )
    processes = [job(trainer, SAVE_DIR=name) for name in ("a", "b")]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs


def test_a_rank_that_fails_ends_the_job_with_a_failure(job, tmp_path):
    trainer = REPORT + (
        "if rank == '1':\n"
        "    while not Path('rank0.pid').exists(): time.sleep(0.05)\n"
        "    sys.exit(3)\n"
        "time.sleep(300)\n"
    )
    process = job(trainer)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    assert gone(int((tmp_path / "work" / "rank0.pid").read_text()))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_ends_the_job_with_a_failure(job, tmp_path, name):
    process = job(REPORT + "time.sleep(300)\n")
    files = [tmp_path / "work" / f"rank{rank}.pid" for rank in (0, 1)]
    wait_for(files)
    time.sleep(0.5)  # written is not yet read: let the ranks reach their sleep
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    else:
        process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0, output
    assert all(gone(int(file.read_text())) for file in files)


def test_a_failed_setup_starts_nothing(job, tmp_path):
    (tmp_path / "checkout" / "scripts" / "setup.sh").write_text("echo 'setup: no compiler' >&2\nexit 1\n")
    process = job(REPORT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output == "setup: no compiler\n"
    assert not list((tmp_path / "work").glob("*.pid"))
