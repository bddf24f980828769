"""DeepSpeed's engine around a model of ours: ZeRO over all ranks, nothing compiled on the way.

DeepSpeed is not told that ranks share a sequence. To ZeRO they are replicas like any others: all hold the same
parameters, and `slice_loss` makes the average over all ranks the right gradient. What DeepSpeed 0.19 does when it is
told depends on the stage: 1 and 2 add the slices' gradients, 3 averages them, shards the parameters over the
data-parallel ranks alone and so leaves the slices' gradients apart.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ascendspeed.integrations.deepspeed.library import load

__all__ = ["initialize"]


def initialize(model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Any:
    """The DeepSpeedEngine of `model`, in the process group that torch.distributed already has.

    Args:
        model: on this rank's device, all its parameters whole; the engine takes rank 0's.
        optimizer: of the model's parameters; the engine gives it float32 ones.
        config: DeepSpeed's, as its documentation has it. train_batch_size, if it is there, is in DeepSpeed's sense:
            train_micro_batch_size_per_gpu x gradient_accumulation_steps x all processes, as if no two of them shared a
            sequence.

    Raises:
        ImportError: DeepSpeed is not installed, or not in a version that is supported.
        RuntimeError: there is no process group.
    """
    if not dist.is_initialized():
        raise RuntimeError("there is no process group: call torch.distributed.init_process_group first")
    deepspeed = load()
    # On a CPU DeepSpeed would compile an all-reduce through shared memory here, for inference; nothing calls it.
    load("ops").__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    engine, _, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine
