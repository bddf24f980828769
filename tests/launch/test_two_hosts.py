"""The example on two hosts, a process each: TP=2 with sequence parallelism, a kill, and every way not to go on.

The hosts are network namespaces; multi_node.sh reaches them as it would over ssh. What ends a job is one line on the
node where it happened, every node ends with a failure, and the checkpoints that were there stay as they were.
"""

import hashlib
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launch.hosts import Cluster

pytestmark = pytest.mark.distributed

_TINY = """
    --num-layers 2 --hidden-size 32 --num-attention-heads 4 --num-query-groups 2 --seq-length 16 --vocab-size 300
    --max-position-embeddings 16 --micro-batch-size 2 --global-batch-size 2 --train-iters 40 --save-interval 10
    --log-interval 1 --split 100,0,0 --device cpu --distributed-timeout-minutes 2
"""
TINY = _TINY.split()
# Rank 1 kills itself, on the first attempt: seen from outside, a busy machine may be past the iteration or the end.
KILLED_AT_ITERATION_12 = """
import os, signal, sys

class AtTheLoop:
    def find_spec(self, name, path=None, target=None):
        if name == "ascendspeed.training.loop":
            sys.meta_path.remove(self)
            from ascendspeed.training.report import Report
            step = Report.step

            def step_and_die(report, iteration, result):
                step(report, iteration, result)
                if iteration == 12:
                    os.kill(os.getpid(), signal.SIGKILL)

            Report.step = step_and_die

if os.environ.get("RANK") == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    sys.meta_path.insert(0, AtTheLoop())
"""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its status, and each host's lines without the host in front of them."""

    status: int
    lines: tuple[list[str], list[str]]

    @classmethod
    def of(cls, cluster: Cluster, status: int, output: str) -> "Outcome":
        first, second = (
            [line.removeprefix(f"[{name}] ") for line in output.splitlines() if line.startswith(f"[{name}] ")]
            for name in cluster.names
        )
        return cls(status, (first, second))

    def said(self, host: int) -> list[str]:
        """What the launcher said there."""
        return [line for line in self.lines[host] if line.startswith("torchrun.sh: ")]

    def losses(self) -> dict[str, str]:
        """Iteration -> loss as printed by the one host that does; the last time, where it was computed twice."""
        return dict(re.findall(r"^iteration +(\d+)/40 \| loss (\S+)", "\n".join(self.lines[0]), re.MULTILINE))


def run(cluster: Cluster, *flags: str, **settings: object) -> Outcome:
    done = cluster.multi_node(*TINY, *flags, **settings)
    return Outcome.of(cluster, done.returncode, done.stdout)


def wait_until_nothing_runs(cluster: Cluster, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while left := cluster.processes(0) | cluster.processes(1):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> list[str]:
    return ["--data-cache-path", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def unbroken(cluster, cache, tmp_path_factory) -> tuple[Path, Outcome]:
    """A finished run: its folder, and what it said."""
    save = tmp_path_factory.mktemp("unbroken") / "save"
    outcome = run(cluster, *cache, SAVE_DIR=save)
    assert outcome.status == 0, outcome
    return save, outcome


@pytest.mark.slow
def test_the_hosts_share_the_model_and_host_0_speaks(unbroken):
    _, outcome = unbroken
    world = "world: 2 on cpu (gloo), data parallel 1, tensor parallel 2 with sequence parallel, pipeline parallel 1"
    assert world in outcome.lines[0]
    assert list(outcome.losses()) == [str(iteration) for iteration in range(1, 41)]
    assert not [line for line in outcome.lines[1] if line.startswith("iteration")]


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_leaves_no_trace_in_the_losses(cluster, unbroken, cache, tmp_path):
    save = tmp_path / "save"
    (tmp_path / "sitecustomize.py").write_text(KILLED_AT_ITERATION_12)
    outcome = run(cluster, *cache, SAVE_DIR=save, MAX_RESTARTS=1, PYTHONPATH=tmp_path)
    assert outcome.status == 0, outcome
    assert [line for line in outcome.lines[1] if "exitcode: -9" in line], outcome
    assert f"continuing after iteration 10 of {save}" in outcome.lines[0]
    before = unbroken[0]
    assert (save / "history.jsonl").read_bytes() == (before / "history.jsonl").read_bytes()
    assert outcome.losses() == unbroken[1].losses()
    wait_until_nothing_runs(cluster)  # not even the helpers of the process that was killed


@pytest.mark.slow
def test_a_head_count_that_does_not_divide_is_told_on_every_node_and_not_tried_again(cluster, unbroken, cache):
    save, _ = unbroken
    there = digest(save)
    heads = ["--num-attention-heads", "3", "--num-query-groups", "3", "--kv-channels", "8"]
    outcome = run(cluster, *heads, *cache, SAVE_DIR=save, MAX_RESTARTS=3)
    assert outcome.status == 2
    for lines in outcome.lines:
        (line,) = (line for line in lines if line.startswith("error: "))
        assert "--num-attention-heads" in line
        assert "--tensor-model-parallel-size" in line
    assert digest(save) == there


@pytest.mark.slow
def test_a_rank_that_dies_before_it_meets_the_others(cluster, unbroken, cache, tmp_path):
    save, _ = unbroken
    there = digest(save)
    (tmp_path / "sitecustomize.py").write_text("import os\nif os.environ.get('RANK') == '1': os._exit(7)\n")
    outcome = run(cluster, *cache, SAVE_DIR=save, PYTHONPATH=tmp_path)
    assert outcome.status == 7
    assert re.fullmatch(r"torchrun.sh: node 1: rank 1 \(process \d+\) ended with status 7.*", outcome.said(1)[-1])
    assert outcome.said(0) == ["torchrun.sh: node 0: another node has ended the job; its output says why"]
    assert digest(save) == there


def nodes(cluster: Cluster, *settings: dict[str, object]) -> list[str]:
    """The launcher's last line on each node, all of which fail; each started by itself, on the host of its rank."""
    processes = [
        subprocess.Popen(
            cluster.on(min(1, int(str(own["NODE_RANK"]))), "bash", "examples/pretrain_gpt.sh", *TINY),
            cwd=cluster.checkout,
            env=cluster.settings(SAVE_DIR="never", **own),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in settings
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [1] * len(processes), said
    assert not (cluster.checkout / "never").exists()
    return [text.splitlines()[-1] for text in said]


@pytest.mark.slow
def test_a_node_that_does_not_come(cluster):
    said = nodes(cluster, *({"NNODES": 3, "NODE_RANK": rank, "RENDEZVOUS_SECONDS": 15} for rank in (0, 1)))
    reason = "of NNODES=3 nodes 2 came within 15 s; missing NODE_RANK 2: start them, or correct NNODES on every node"
    assert said == [f"torchrun.sh: node {rank}: {reason}" for rank in (0, 1)]


def test_nodes_that_count_differently(cluster):
    said = nodes(cluster, {"NNODES": 3, "NODE_RANK": 0}, {"NNODES": 2, "NODE_RANK": 1})
    reason = "node 1: NNODES=2 here and 3 on node 0: it must be the same on all nodes"
    assert said == [f"torchrun.sh: node 0: {reason}", f"torchrun.sh: {reason}"]


def test_two_nodes_of_one_rank(cluster):
    said = nodes(cluster, *({"NNODES": 3, "NODE_RANK": rank} for rank in (0, 1, 1)))
    for line in said:
        assert "NODE_RANK=1 is set on 10.77.0.20 and on 10.77.0.20: each node needs its own" in line


def test_a_master_that_does_not_answer(cluster):
    (said,) = nodes(cluster, {"NNODES": 2, "NODE_RANK": 1, "RENDEZVOUS_SECONDS": 3})
    expected = "node 0 did not answer at MASTER_ADDR=10.77.0.3 MASTER_PORT=29500 within 3 s (Connection refused)"
    assert said.startswith(f"torchrun.sh: node 1: {expected}")


def test_nothing_is_left_when_the_launcher_is_killed(cluster, tmp_path):
    (tmp_path / "recipe.sh").write_text("echo $$ > $1.$NODE_RANK; exec sleep 300\n")
    process = subprocess.Popen(
        ["bash", "scripts/launch/multi_node.sh", tmp_path / "recipe.sh", tmp_path / "pid"],
        cwd=cluster.checkout,
        env=cluster.settings(),
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    files = [tmp_path / f"pid.{rank}" for rank in (0, 1)]
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    wait_until_nothing_runs(cluster)
