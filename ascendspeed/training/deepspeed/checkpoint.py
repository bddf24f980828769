"""Checkpoints by DeepSpeed's engine: model and optimizer as ZeRO shards them, schedule, generators, iteration.

    SAVE/iter_0000100/                   DeepSpeed's files, and generators_rank_0.pt of every rank
    SAVE/latest, SAVE/zero_to_fp32.py    DeepSpeed's: what its script to put the weights together again reads
    SAVE/latest_checkpointed_iteration.txt

A resumed run continues with exactly the losses of one that was never interrupted.
"""

import random
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from ascendspeed.device import Device
from ascendspeed.training.save_folder import TRACKER, checkpoint_path, write_atomically

__all__ = ["load", "save"]


def save(folder: Path, iteration: int, engine: Any, scheduler: OptimizerParamScheduler, device: Device) -> None:
    """Write a checkpoint after `iteration` iterations. All ranks call; it counts once the tracker file names it."""
    tag = checkpoint_path(folder, iteration).name
    engine.save_checkpoint(str(folder), tag=tag, client_state={"scheduler": scheduler.state_dict()})
    torch.save(_generators(device), _generators_file(folder, iteration))
    dist.barrier()
    if dist.get_rank() == 0:
        write_atomically(folder / TRACKER, str(iteration))
    dist.barrier()


def load(folder: Path, iteration: int, engine: Any, scheduler: OptimizerParamScheduler, device: Device) -> None:
    """Put model, optimizer, schedule and generators where they were after `iteration` iterations. All ranks call.

    Raises:
        RuntimeError: DeepSpeed did not find the checkpoint complete.
    """
    path, client_state = engine.load_checkpoint(str(folder), tag=checkpoint_path(folder, iteration).name)
    if path is None:
        raise RuntimeError(f"{checkpoint_path(folder, iteration)} is not a complete checkpoint of DeepSpeed's")
    scheduler.load_state_dict(client_state["scheduler"])
    generators = torch.load(_generators_file(folder, iteration), weights_only=False)
    random.setstate(generators["random"])
    numpy.random.set_state(generators["numpy"])
    torch.set_rng_state(generators["torch"])
    device.set_rng_state(generators["device"])
    get_cuda_rng_tracker().set_states(generators["tracker"])


def _generators(device: Device) -> dict[str, Any]:
    return {
        "random": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "device": device.get_rng_state(),
        "tracker": get_cuda_rng_tracker().get_states(),
    }


def _generators_file(folder: Path, iteration: int) -> Path:
    """Each rank has its own: those that share a sequence drop out other numbers."""
    return checkpoint_path(folder, iteration) / f"generators_rank_{dist.get_rank()}.pt"
