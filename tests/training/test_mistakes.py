"""Whatever one rank finds, all ranks raise; what is no mistake keeps its type."""

import datetime
import os
import socket
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from ascendspeed.training.mistakes import EXIT_CODE, Mistake, exit_together, on_every_rank, on_rank_0
from tests.support.ranks import run_ranks


def _raised(check) -> str:
    try:
        check()
    except Mistake as mistake:
        return str(mistake)
    return "nothing"


def _complain() -> None:
    raise Mistake(f"found by {dist.get_rank()}")


def _on_two_ranks() -> list[object]:
    rank = dist.get_rank()
    return [
        on_rank_0(lambda: f"value of {rank}"),
        _raised(lambda: on_rank_0(_complain)),
        on_every_rank(lambda: f"value of {rank}"),
        _raised(lambda: on_every_rank(lambda: _complain() if rank == 1 else None)),
        _raised(lambda: on_every_rank(_complain)),
    ]


@pytest.mark.distributed
def test_ranks_agree():
    first, second = run_ranks(2, _on_two_ranks)
    assert first == ["value of 0", "found by 0", "value of 0", "found by 1", "found by 0"]
    assert second == ["value of 0", "found by 0", "value of 1", "found by 1", "found by 0"]


def _longer_than_a_collective_may_take() -> str:
    limit = datetime.timedelta(seconds=1)
    dist.distributed_c10d._set_pg_timeout(limit)
    return on_rank_0(lambda: time.sleep(3) or "tokenized")


@pytest.mark.distributed
def test_rank_0_may_work_for_longer_than_a_collective_may_take():
    assert run_ranks(2, _longer_than_a_collective_may_take) == ["tokenized"] * 2


def test_alone_the_work_is_simply_done():
    assert on_rank_0(lambda: 3) == on_every_rank(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        on_rank_0(lambda: 1 // 0)


def test_leaving_prints_on_rank_0_alone(capsys, monkeypatch):
    with pytest.raises(SystemExit) as left:
        exit_together(Mistake("no"))
    assert left.value.code == EXIT_CODE
    assert capsys.readouterr().err == "error: no\n"
    monkeypatch.setitem(os.environ, "RANK", "1")
    with pytest.raises(SystemExit):
        exit_together(Mistake("no"))
    assert capsys.readouterr().err == ""


LEAVING = """
import os, sys
from ascendspeed.training.mistakes import Mistake, exit_together
exit_together(Mistake("no"), patience=float(sys.argv[1]))
"""


def _leaving(patience: float, **variables: object) -> subprocess.Popen:
    """A process of a world of two that has found a mistake."""
    own = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"} | variables
    environment = os.environ | {name: str(value) for name, value in own.items()}
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    command = [sys.executable, "-c", LEAVING, str(patience)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.distributed
def test_a_mistake_of_all_ranks_is_printed_once_a_node(tmp_path):
    told = {"MASTER_PORT": _port(), "ASCENDSPEED_MISTAKE_FILE": tmp_path / "told"}
    ranks = [_leaving(120, RANK=rank, LOCAL_RANK=rank, **told) for rank in (0, 1)]
    assert [rank.communicate(timeout=180)[1] for rank in ranks] == ["error: no\n", ""]
    assert [rank.returncode for rank in ranks] == [EXIT_CODE, EXIT_CODE]


@pytest.mark.distributed
@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_of_one_rank_is_printed_and_ends_it_soon(rank, tmp_path):
    told = {"MASTER_PORT": _port(), "ASCENDSPEED_MISTAKE_FILE": tmp_path / "told"}
    alone = _leaving(2, RANK=rank, LOCAL_RANK=rank, **told)
    said = alone.communicate(timeout=180)[1]
    assert [line for line in said.splitlines() if "error: " in line] == ["error: no"]  # torch may warn besides
    assert "Traceback" not in said
    assert alone.returncode == EXIT_CODE
    assert (tmp_path / "told").read_text() == str(EXIT_CODE)


def test_leaving_alone_prints_the_traceback_once_and_tidies_nothing_up():
    program = """
import atexit
from ascendspeed.training.mistakes import exit_alone
atexit.register(print, "tidied up")
print("before")
try:
    1 // 0
except ZeroDivisionError as error:
    exit_alone(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout.endswith("before\n")
    assert done.stderr.count("Traceback") == done.stderr.count("ZeroDivisionError: ") == 1
