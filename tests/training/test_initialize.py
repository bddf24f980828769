"""A run joins a world and leaves nothing of it behind."""

import logging
import os

import pytest
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from ascendspeed.device import Device, cuda_shim
from ascendspeed.training import flags, initialize
from ascendspeed.training.initialize import world
from ascendspeed.training.mistakes import Mistake
from tests.support.device import DEVICE
from tests.support.ranks import run_ranks
from tests.training.settings import SMALL


def test_the_world_is_there_inside_and_gone_outside():
    run = flags.parse(SMALL, world_size=1)
    with world(run) as device:
        assert device.name == DEVICE
        assert parallel_state.get_tensor_model_parallel_world_size() == 1
        assert cuda_shim.installed_for() == device
    assert cuda_shim.installed_for() is None
    assert not parallel_state.model_parallel_is_initialized()


def test_more_processes_than_cards_are_refused_on_every_rank_before_one_takes_a_card(monkeypatch):
    monkeypatch.setattr(Device, "count", lambda device: 8)
    monkeypatch.setattr(Device, "set", lambda device, local_rank: pytest.fail("took a card"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    message = f"^NPROC_PER_NODE=16 is more than the 8 of device {DEVICE} on this node$"
    with pytest.raises(Mistake, match=message), world(flags.parse(SMALL, world_size=1)):
        pass


def test_megatrons_loggers_are_left_alone_and_dropout_raises_no_alarm(caplog):
    caplog.set_level(logging.WARNING, logger="megatron.core.tensor_parallel.random")
    with world(flags.parse(SMALL, world_size=1)) as device, get_cuda_rng_tracker().fork():
        torch.rand(3, device=device.current_device())
    assert logging.getLogger("megatron.core.tensor_parallel.random").level == logging.WARNING
    assert not caplog.records


def test_the_seed_decides_every_generator():
    def drawn(seed: str) -> list[float]:
        with world(flags.parse([*SMALL, "--seed", seed], world_size=1)) as device:
            return [*torch.rand(3).tolist(), *torch.rand(3, device=device.current_device()).tolist()]

    assert drawn("1") == drawn("1") != drawn("2")


def _refusals(*flags_of_rank_1: tuple[str, ...]) -> list[str]:
    """What the rank is told, when rank 1 has these flags besides."""
    said = []
    for more in flags_of_rank_1:
        run = flags.parse([*SMALL, *(more if dist.get_rank() == 1 else ())], world_size=2)
        try:
            with world(run):
                said.append("nothing")
        except Mistake as mistake:
            said.append(str(mistake))
    return said


@pytest.mark.distributed
def test_nodes_with_different_flags_are_told_which():
    cases = (
        ("--lr", "1e-3"),
        ("--tensor-model-parallel-size", "2"),
        ("--train-iters", "7"),
        ("--save", "a"),
        ("--micro-batch-size", "2"),
    )
    for said in run_ranks(2, _refusals, *cases):
        assert said == [
            "--lr is 0.001 on rank 1 and 0.01 on rank 0: give every node the same flags",
            "--tensor-model-parallel-size is 2 on rank 1 and 1 on rank 0: give every node the same flags",
            "--train-iters is 7 on rank 1 and 6 on rank 0: give every node the same flags",
            "--save is given on rank 1 and not given on rank 0: give every node the same flags",
            "nothing",
        ]


@pytest.mark.parametrize(
    ("environment", "minutes", "connect", "execute", "torchs"),
    [
        ({}, 10, "600", "600", 660),
        ({}, 1, "120", "60", 140),
        ({}, 180, "7200", "10800", 10860),
        ({"HCCL_EXEC_TIMEOUT": "1836", "HCCL_CONNECT_TIMEOUT": "300"}, 10, "300", "1836", 1896),
        ({"HCCL_EXEC_TIMEOUT": "0"}, 10, "600", "0", 315360020),  # for ever: ten years
    ],
)
def test_hccl_has_the_runs_limits_where_the_environment_has_none(
    monkeypatch, environment, minutes, connect, execute, torchs
):
    for name in ("HCCL_EXEC_TIMEOUT", "HCCL_CONNECT_TIMEOUT", "HCCL_EVENT_TIMEOUT", "ACL_DEVICE_SYNC_TIMEOUT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert initialize._tell_hccl(60 * minutes) == torchs
    assert (os.environ["HCCL_CONNECT_TIMEOUT"], os.environ["HCCL_EXEC_TIMEOUT"]) == (connect, execute)


def test_a_limit_that_is_no_number_is_a_mistake(monkeypatch):
    monkeypatch.setenv("HCCL_EXEC_TIMEOUT", "5m")
    with pytest.raises(Mistake, match="HCCL_EXEC_TIMEOUT=5m is not a whole number of seconds"):
        initialize._tell_hccl(60)
