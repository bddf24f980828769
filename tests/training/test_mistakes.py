"""Whatever one rank finds, all ranks raise; what is no mistake keeps its type."""

import datetime
import os
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
