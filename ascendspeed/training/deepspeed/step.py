"""One iteration, and one validation, of a DeepSpeed engine over the micro-batches of this rank's slices.

# B micro-batch size, S sequence length, P ranks that share a sequence
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from torch import Tensor

from ascendspeed.device import Device
from ascendspeed.integrations.deepspeed import local_slice, slice_loss
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.data import Data, validation_batches
from ascendspeed.training.masks import Batch
from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.step import StepResult

__all__ = ["train_step", "validate"]


def train_step(
    engine: Any,
    scheduler: OptimizerParamScheduler,
    micro_batches: Iterator[Batch],
    run: RunConfig,
    device: Device,
    slices: dist.ProcessGroup,
) -> StepResult:
    """Gradients of one global batch, clipped, one update. `Mistake`, on all ranks, when they are not finite."""
    engine.train()
    lr = max(group["lr"] for group in engine.optimizer.param_groups)
    sums = []
    for _ in range(run.num_microbatches):
        losses, loss_mask = _losses(engine, next(micro_batches), device, slices)
        engine.backward(slice_loss(losses, loss_mask, slices))
        engine.step()  # updates after the last of them
        sums.append(_sums(losses, loss_mask))
    loss, grad_norm = _mean(sums, device), float(engine.get_global_grad_norm())
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise Mistake(
            f"training diverged: loss {loss}, gradient norm {grad_norm} "
            f"(--lr={run.optimizer.lr}, --clip-grad={run.optimizer.clip_grad})"
        )
    scheduler.step(increment=run.global_batch_size)
    return StepResult(loss, grad_norm, lr)


@torch.no_grad()
def validate(engine: Any, data: Data, run: RunConfig, device: Device, slices: dist.ProcessGroup) -> float | None:
    """Mean loss over the validation samples, nats per token; None when the run has none."""
    num_microbatches, micro_batches = validation_batches(data, run)
    if num_microbatches == 0:
        return None
    engine.eval()
    each = (_losses(engine, next(micro_batches), device, slices) for _ in range(num_microbatches))
    return _mean([_sums(losses, loss_mask) for losses, loss_mask in each], device)


def _losses(engine: Any, batch: Batch, device: Device, slices: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """The loss of every token of this rank's slice, and which of them count: [B, S/P] each."""
    tokens, positions, labels, loss_mask = (
        local_slice(batch[name], slices).to(device.current_device(), non_blocking=True)
        for name in ("tokens", "position_ids", "labels", "loss_mask")
    )
    prefix = batch.get("prefix")  # of the whole sequence, as the attention is, and read on the CPU
    return engine(tokens, positions, prefix, labels=labels), loss_mask


def _sums(losses: Tensor, loss_mask: Tensor) -> Tensor:
    """Sum of the losses that count, and their number."""
    return torch.stack([(losses.detach().float() * loss_mask).sum(), loss_mask.sum()])


def _mean(sums: list[Tensor], device: Device) -> float:
    """Mean loss over the tokens of all ranks, summed in float64."""
    mine = torch.stack(sums).cpu().double().sum(dim=0).to(device.current_device())
    each = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(each, mine)  # no all_reduce: HCCL adds no float64
    loss, tokens = torch.stack(each).cpu().sum(dim=0).tolist()
    return float(loss / max(tokens, 1.0))
