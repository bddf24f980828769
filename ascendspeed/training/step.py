"""One iteration, and one validation: megatron-core's schedule over the micro-batches, then the optimizer's step.

`model` is what `model.build` returns: this rank's chunks. Only the last pipeline stage computes losses; all ranks learn
their mean.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from ascendspeed.device import Device
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.data import Data, validation_batches
from ascendspeed.training.masks import Batch, packed_seq_params, schedule_shape
from ascendspeed.training.mistakes import Mistake

__all__ = ["StepResult", "gathered_parameters", "train_step", "validate"]


class StepResult(NamedTuple):
    """What one iteration did."""

    loss: float
    """Mean over the global batch's tokens, nats per token, before the update."""
    grad_norm: float
    """L2 norm of the whole gradient before clipping."""
    lr: float
    """The learning rate of this update."""


def train_step(
    model: list[DistributedDataParallel],
    optimizer: MegatronOptimizer,
    scheduler: OptimizerParamScheduler,
    micro_batches: Iterator[Batch],
    run: RunConfig,
    device: Device,
) -> StepResult:
    """Gradients of one global batch, clipped, one update. `Mistake`, on all ranks, when they are not finite."""
    for chunk in model:
        chunk.train()
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    loss = _forward_backward(model, micro_batches, run, device, run.num_microbatches, forward_only=False)
    lr = max(group["lr"] for group in optimizer.param_groups)
    _, grad_norm, _ = optimizer.step()
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise Mistake(
            f"training diverged: loss {loss}, gradient norm {grad_norm} "
            f"(--lr={run.optimizer.lr}, --clip-grad={run.optimizer.clip_grad})"
        )
    scheduler.step(increment=run.global_batch_size)
    return StepResult(loss, float(grad_norm), lr)


@torch.no_grad()
def validate(model: list[DistributedDataParallel], data: Data, run: RunConfig, device: Device) -> float | None:
    """Mean loss over the validation samples, nats per token; None when the run has none."""
    num_microbatches, micro_batches = validation_batches(data, run)
    if num_microbatches == 0:
        return None
    for chunk in model:
        chunk.eval()
    with gathered_parameters(model):
        return _forward_backward(model, micro_batches, run, device, num_microbatches, forward_only=True)


@contextlib.contextmanager
def gathered_parameters(model: list[DistributedDataParallel]) -> Iterator[None]:
    """Every rank's weights are those of the last update. With --overlap-param-gather some still travel otherwise.

    Inside, no forward pass may be followed by an update.
    """
    overlapped = [chunk for chunk in model if chunk.ddp_config.overlap_param_gather]
    for chunk in overlapped:
        chunk.disable_forward_pre_hook()
    try:
        yield
    finally:
        for chunk in overlapped:
            chunk.enable_forward_pre_hook()


def _forward_backward(
    model: list[DistributedDataParallel],
    micro_batches: Iterator[Batch],
    run: RunConfig,
    device: Device,
    num_microbatches: int,
    forward_only: bool,
) -> float:
    """Run the schedule; return the mean loss over the tokens of all data-parallel ranks, summed in float64."""
    # Every chunk of every stage reads the same micro-batches; they are loaded once.
    streams = itertools.tee(itertools.islice(micro_batches, num_microbatches), len(model))
    seq_length, micro_batch_size = schedule_shape(run)
    sums: list[Tensor] = get_forward_backward_func()(
        forward_step_func=partial(_forward_step, device.current_device()),
        data_iterator=list(streams),
        model=model,
        num_microbatches=num_microbatches,
        seq_length=seq_length,
        micro_batch_size=micro_batch_size,
        forward_only=forward_only,
    )
    mine = torch.stack(sums).cpu().double().sum(dim=0) if sums else torch.zeros(2, dtype=torch.float64)
    groups = parallel_state.get_data_parallel_group(), parallel_state.get_pipeline_model_parallel_group()
    for group in groups:  # the stages before the last one add nothing
        each = [torch.empty_like(mine, device=device.current_device()) for _ in range(group.size())]
        dist.all_gather(each, mine.to(device.current_device()), group=group)  # no all_reduce: HCCL adds no float64
        mine = torch.stack(each).cpu().sum(dim=0)
    loss, tokens = mine.tolist()
    return loss / max(tokens, 1.0)


def _forward_step(
    device: torch.device, micro_batches: Iterator[Batch], model: DistributedDataParallel
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """The loss of every token of a micro-batch, [B, S], and the function that sums them: what the schedule asks for.

    Every pipeline stage reads the batch, for its layers need what it says of documents and prefixes.
    """
    batch = next(micro_batches)
    tokens, positions, labels, loss_mask = (
        batch[name].to(device, non_blocking=True) for name in ("tokens", "position_ids", "labels", "loss_mask")
    )
    packed = packed_seq_params(batch["cu_seqlens"]) if "cu_seqlens" in batch else None
    try:
        losses = model(
            tokens,
            positions,
            attention_mask=batch.get("prefix"),  # stays on the CPU, as the documents' lengths: they are read there
            labels=labels,
            packed_seq_params=packed,
        )
    except ValueError as error:
        if packed is None:
            raise
        # No Mistake, which all ranks would have to make: only this one has so many documents.
        raise ValueError(
            f"--reset-attention-mask: a micro-batch of {len(batch['cu_seqlens']) - 1} documents was refused ({error}); "
            "where they are too many a smaller --micro-batch-size has fewer"
        ) from error
    return losses, partial(_sum_losses, loss_mask)


def _sum_losses(loss_mask: Tensor, losses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of the losses, number of tokens, both for the report); the schedule divides and scales."""
    loss = (losses.float() * loss_mask).sum()
    tokens = loss_mask.sum()
    return loss, tokens.int(), torch.stack([loss.detach(), tokens])
