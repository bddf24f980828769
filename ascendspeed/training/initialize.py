"""The world of a run: device, process group, Megatron's parallel groups, seeds. Nothing of the model or the data."""

import datetime
import os
import random
import warnings

import numpy
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from ascendspeed import device as devices
from ascendspeed.device import Device, cuda_shim
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake

__all__ = ["initialize"]


def initialize(run: RunConfig) -> Device:
    """Join the other processes and return the device. Every call of torch.distributed and Megatron comes after this.

    Without torchrun the world is this one process. `Mistake` if the device asked for is not there.
    """
    try:
        device = devices.select(run.parallel.device)
    except (ValueError, RuntimeError) as error:
        raise Mistake(f"--device: {error}") from None
    device.set(int(os.environ.get("LOCAL_RANK", "0")))
    cuda_shim.install(device)
    timeout = datetime.timedelta(minutes=run.parallel.distributed_timeout_minutes)
    if "RANK" in os.environ:
        dist.init_process_group(device.collective_backend, timeout=timeout)
    else:
        dist.init_process_group(
            device.collective_backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout
        )
    if dist.get_rank() != 0:
        warnings.simplefilter("ignore")  # rank 0 says it once for all
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=run.parallel.tensor_model_parallel_size)
    _seed(run.training.seed)
    return device


def _seed(seed: int) -> None:
    """Seed every generator; Megatron's tracker gives each tensor-parallel rank dropout of its own where it must."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed)
