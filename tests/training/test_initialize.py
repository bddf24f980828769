"""A run joins a world and leaves nothing of it behind."""

import logging

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from ascendspeed.device import cuda_shim
from ascendspeed.training import flags
from ascendspeed.training.initialize import world
from tests.training.settings import SMALL


def test_the_world_is_there_inside_and_gone_outside():
    run = flags.parse(SMALL, world_size=1)
    with world(run) as device:
        assert device.name == "cpu"
        assert parallel_state.get_tensor_model_parallel_world_size() == 1
        assert cuda_shim.installed_for() == device
    assert cuda_shim.installed_for() is None
    assert not parallel_state.model_parallel_is_initialized()


def test_megatrons_loggers_are_left_alone_and_dropout_raises_no_alarm(caplog):
    caplog.set_level(logging.WARNING, logger="megatron.core.tensor_parallel.random")
    with world(flags.parse(SMALL, world_size=1)), get_cuda_rng_tracker().fork():
        torch.rand(3)
    assert logging.getLogger("megatron.core.tensor_parallel.random").level == logging.WARNING
    assert not caplog.records


def test_the_seed_decides_every_generator():
    def drawn(seed: str) -> list[float]:
        with world(flags.parse([*SMALL, "--seed", seed], world_size=1)):
            return torch.rand(3).tolist()

    assert drawn("1") == drawn("1") != drawn("2")
