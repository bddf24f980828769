"""The world of a run: device, process group, Megatron's parallel groups, seeds. Nothing of the model or the data."""

import contextlib
import datetime
import os
import random
import warnings
from collections.abc import Iterator
from dataclasses import asdict

import numpy
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

from ascendspeed import device as devices
from ascendspeed.device import Device, cuda_shim
from ascendspeed.training import timeouts
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake, on_every_rank, on_rank_0

__all__ = ["seed_generators", "world"]

# A node may know these by another name; the loop compares what is there (`save_folder.check_shared`).
_PATHS = {"data_path", "data_cache_path", "tokenizer_model", "save", "load", "tensorboard_dir", "deepspeed_config"}


@contextlib.contextmanager
def world(run: RunConfig) -> Iterator[Device]:
    """Join the other processes, for as long as the context lasts; its value is the device.

    Without torchrun the world is this one process; a process group that is there already is used and left alone.
    `Mistake` if the device asked for is not there, or a flag is not the same on all ranks.
    """
    try:
        device = devices.select(run.parallel.device)
    except (ValueError, RuntimeError) as error:
        raise Mistake(f"--device: {error}") from None
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if (cards := device.count()) is not None and processes > cards:
        raise Mistake(f"NPROC_PER_NODE={processes} is more than the {cards} of device {device.name} on this node")
    device.set(int(os.environ.get("LOCAL_RANK", "0")))
    cuda_shim.install(device)
    try:
        if not dist.is_initialized():
            _join(run, device)
        _compare_flags(run)
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=run.parallel.tensor_model_parallel_size,
            pipeline_model_parallel_size=run.parallel.pipeline_model_parallel_size,
            virtual_pipeline_model_parallel_size=run.virtual_stages if run.virtual_stages > 1 else None,
            create_gloo_process_groups=False,  # for checkpoints of a kind that is not used
        )
        seed_generators(run.training.seed)
        with warnings.catch_warnings():
            _quieten()
            yield device
    finally:
        parallel_state.destroy_model_parallel()
        cuda_shim.uninstall()


def _join(run: RunConfig, device: Device) -> None:
    seconds = 60 * run.parallel.distributed_timeout_minutes
    timeout = datetime.timedelta(seconds=_tell_hccl(seconds) if device.name == "npu" else seconds)
    if "RANK" in os.environ:
        dist.init_process_group(device.collective_backend, timeout=timeout)
    else:
        alone = dist.HashStore()
        dist.init_process_group(device.collective_backend, store=alone, rank=0, world_size=1, timeout=timeout)


def _compare_flags(run: RunConfig) -> None:
    """`Mistake` on every rank if a flag of one differs from rank 0's: nodes that were started with different flags.

    They would wait for each other in different collectives, or train together on different terms without a word.
    """
    own: dict[str, object] = {}
    for group in asdict(run).values():
        if isinstance(group, dict):
            own |= {name: bool(value) if name in _PATHS else value for name, value in group.items()}
    first = on_rank_0(lambda: own)
    on_every_rank(lambda: _compare(own, first))


def _compare(own: dict[str, object], first: dict[str, object]) -> None:
    for name, value in own.items():
        if value != first.get(name):
            said = [
                f"{'given' if each else 'not given'}" if name in _PATHS else each for each in (value, first.get(name))
            ]
            raise Mistake(
                f"--{name.replace('_', '-')} is {said[0]} on rank {dist.get_rank()} and {said[1]} on rank 0: "
                "give every node the same flags"
            )


def _tell_hccl(seconds: int) -> int:
    """Give HCCL, which alone ends a collective that waits, the run's limit unless the environment has one.

    Returns torch's limit in seconds, which has to be the later one.
    """
    try:
        os.environ.update(timeouts.hccl_limits(seconds, os.environ))
    except ValueError as error:
        raise Mistake(str(error)) from None
    return timeouts.torch_limit(seconds, os.environ)


def seed_generators(seed: int) -> None:
    """Seed every generator, of each pipeline stage by 100 more than of the one before, as Megatron-LM does.

    Megatron's tracker gives each tensor-parallel rank dropout of its own where it must.
    """
    seed += 100 * parallel_state.get_pipeline_model_parallel_rank()
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed)


def _quieten() -> None:
    """Leave out of the log what is known and asks nothing of the reader."""
    if dist.get_rank() != 0:
        warnings.simplefilter("ignore")  # rank 0 says it for all
    # megatron-core's advice for CUDA, and torch's new names for what megatron-core still calls by the old ones.
    warnings.filterwarnings("ignore", message=".*CUDA_DEVICE_MAX_CONNECTIONS", category=UserWarning)
    warnings.filterwarnings("ignore", message=".*cuda_graph_scope", category=UserWarning)
    # The current card is the process's own, and what HCCL lacks torch_npu makes of what it has.
    warnings.filterwarnings("ignore", message=r"barrier\(\): using the device", category=UserWarning)
    warnings.filterwarnings("ignore", message="HCCL doesn't support gather", category=UserWarning)
    for old in (
        r".*torch\.distributed\.\w+` is deprecated",
        "`load_state_dict` is deprecated",
        ".*deprecating ShardedTensor",
    ):
        warnings.filterwarnings("ignore", message=old, category=FutureWarning)
