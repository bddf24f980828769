"""Checkpoints by megatron.core.dist_checkpointing: model, optimizer, schedule, generators, iteration.

A resumed run continues with exactly the losses of one that was never interrupted.
"""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy
import psutil  # noqa: F401  without it dist_checkpointing.save waits for ever; better to fail here
import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from ascendspeed.device import Device
from ascendspeed.training.save_folder import TRACKER, checkpoint_path, write_atomically

__all__ = ["load", "save"]


def save(
    folder: Path,
    iteration: int,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
    device: Device,
) -> None:
    """Write a checkpoint after `iteration` iterations. All ranks call; it counts once the tracker file names it."""
    final = checkpoint_path(folder, iteration)
    building = final.with_name(final.name + ".part")
    if dist.get_rank() == 0:
        shutil.rmtree(building, ignore_errors=True)  # what a killed run left of the same checkpoint
        building.mkdir(parents=True)
    dist.barrier()
    state = _state(model, optimizer, scheduler, device, is_loading=False) | {"iteration": iteration}
    dist_checkpointing.save(state, str(building))
    if dist.get_rank() == 0:
        shutil.rmtree(final, ignore_errors=True)
        building.rename(final)
        write_atomically(folder / TRACKER, str(iteration))
    dist.barrier()


def load(
    folder: Path,
    iteration: int,
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
    device: Device,
) -> None:
    """Put model, optimizer, schedule and generators where they were after `iteration` iterations. All ranks call."""
    distributed = [each for each in optimizer.chained_optimizers if isinstance(each, DistributedOptimizer)]
    numbers = []
    for each in distributed:
        each._init_optimizer_states_with_dummy_values()  # torch's Adam has no step to ask for before its first one
        numbers.append(_take_numbers(each.optimizer))
    wanted = _state(model, optimizer, scheduler, device, is_loading=True)
    state = dist_checkpointing.load(wanted, str(checkpoint_path(folder, iteration)))
    for name, chunk in _named(model).items():
        chunk.module.load_state_dict(state[name])
    with torch.no_grad():  # megatron-core copies into views of the parameters
        optimizer.load_state_dict(state["optimizer"])
    for each, own in zip(distributed, numbers, strict=True):
        _set_steps(each.optimizer, iteration, own)
    scheduler.load_state_dict(state["scheduler"])
    generators = state["generators"]
    random.setstate(generators["random"])
    numpy.random.set_state(generators["numpy"])
    torch.set_rng_state(generators["torch"])
    device.set_rng_state(generators["device"])
    get_cuda_rng_tracker().set_states(generators["tracker"])


def _state(
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
    device: Device,
    is_loading: bool,
) -> dict[str, Any]:
    """Everything that is saved, as dist_checkpointing describes it: what this rank holds of which whole."""
    metadata = {
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        # Nothing is gathered for it. It follows the buckets and the number of ranks, which a resume may not change.
        "distrib_optim_sharding_type": "dp_reshardable",
    }
    weights = {name: chunk.module.sharded_state_dict(metadata=metadata) for name, chunk in _named(model).items()}
    generators = {
        "random": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
        "device": device.get_rng_state(),
        "tracker": get_cuda_rng_tracker().get_states(),
    }
    return {
        **weights,
        "optimizer": optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=metadata),
        "scheduler": scheduler.state_dict(),
        "generators": ShardedObject(
            "generators",
            generators,
            (
                parallel_state.get_pipeline_model_parallel_world_size(),
                parallel_state.get_tensor_model_parallel_world_size(),
            ),
            (parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_tensor_model_parallel_rank()),
            replica_id=parallel_state.get_data_parallel_rank(),
        ),
    }


def _named(model: list[DistributedDataParallel]) -> dict[str, DistributedDataParallel]:
    """Megatron-LM's names of model chunks in a checkpoint."""
    return {"model": model[0]} if len(model) == 1 else {f"model{index}": chunk for index, chunk in enumerate(model)}


def _take_numbers(adam: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Take away the steps that are numbers, as Ascend's Adam has them: megatron-core would copy a tensor into them.

    Returns the parameters that had one.
    """
    having = [parameter for parameter, state in adam.state.items() if isinstance(state.get("step"), int)]
    for parameter in having:
        del adam.state[parameter]["step"]
    return having


def _set_steps(adam: torch.optim.Optimizer, steps: int, numbers: list[torch.Tensor]) -> None:
    """Give the optimizer the number of its steps, one per iteration, wherever it counts them.

    megatron-core's distributed optimizer saves and restores the step only of the Adam that its imports suggest, and
    that is apex's wherever a package apex is, used or not. `numbers` is what `_take_numbers` returned.
    """
    for parameter in numbers:
        adam.state[parameter]["step"] = steps
    for group in adam.param_groups:
        if "step" in group:
            group["step"] = steps
        for parameter in group["params"]:
            if isinstance(adam.state[parameter].get("step"), torch.Tensor):
                beside = parameter.device if group.get("fused") else "cpu"  # where the fused Adam counts
                adam.state[parameter]["step"] = torch.tensor(float(steps), device=beside)
