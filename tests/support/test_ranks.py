"""run_ranks: results of every rank in order, a failing rank with its traceback, a silent one by the clock."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from ascendspeed import device as devices
from tests.support.device import BACKEND, DEVICE
from tests.support.ranks import RankFailedError, run_ranks

pytestmark = pytest.mark.distributed


def _sum_of_ranks(offset: int) -> torch.Tensor:
    assert (devices.current().name, dist.get_backend()) == (DEVICE, BACKEND)
    total = torch.tensor([dist.get_rank() + offset], device=devices.current().current_device())
    dist.all_reduce(total)
    return total + 100 * dist.get_rank()


def _rank_one_raises() -> None:
    if dist.get_rank() == 1:
        raise RuntimeError("this is rank one speaking")
    dist.barrier()


def _rank_zero_vanishes() -> None:
    if dist.get_rank() == 0:
        os._exit(7)
    dist.barrier()


def test_every_rank_returns_its_result():
    assert [result.item() for result in run_ranks(2, _sum_of_ranks, 10)] == [21, 121]


def test_a_failing_rank_is_reported_with_its_traceback():
    with pytest.raises(RankFailedError, match=r"(?s)rank 1 of 2:.*this is rank one speaking"):
        run_ranks(2, _rank_one_raises)


def test_a_rank_that_dies_is_reported():
    with pytest.raises(RankFailedError, match=r"rank 0 died"):
        run_ranks(2, _rank_zero_vanishes)


def test_a_rank_that_hangs_is_ended():
    with pytest.raises(RankFailedError, match=r"ranks \[0\] did not finish in 1 s"):
        run_ranks(1, time.sleep, 600, timeout=1)
