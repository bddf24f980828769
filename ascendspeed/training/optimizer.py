"""megatron-core's optimizer around a fused Adam, and its schedule of learning rate and weight decay."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from ascendspeed import device as devices
from ascendspeed.integrations.apex import Adam, choose_adam, megatron_adam
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake

__all__ = ["agreed_adam", "build", "build_schedule"]


def agreed_adam() -> Adam:
    """The fused Adam of this process's device, the same on all ranks; `Mistake`, on all ranks, when they differ."""
    adam = choose_adam(devices.current().current_device())
    found = [(adam.name, adam.reason)] * dist.get_world_size()
    dist.all_gather_object(found, found[dist.get_rank()])
    for rank, (name, reason) in enumerate(found):
        if name != found[0][0]:
            raise Mistake(
                f"rank {rank} would train with {name} ({reason}), rank 0 with {found[0][0]} ({found[0][1]}): "
                "install the same apex on all nodes, or on none"
            )
    return adam


def build(run: RunConfig, model: list[DistributedDataParallel]) -> tuple[MegatronOptimizer, OptimizerParamScheduler]:
    """The optimizer of the model's parameters, and the scheduler that counts in samples and sets its rates."""
    o = run.optimizer
    with megatron_adam(agreed_adam()):
        optimizer = get_megatron_optimizer(
            OptimizerConfig(
                optimizer="adam",
                lr=o.lr,
                min_lr=o.min_lr,
                weight_decay=o.weight_decay,
                adam_beta1=o.adam_beta1,
                adam_beta2=o.adam_beta2,
                adam_eps=o.adam_eps,
                clip_grad=o.clip_grad,
                use_distributed_optimizer=run.parallel.use_distributed_optimizer,
                overlap_param_gather=run.parallel.overlap_param_gather,
                bf16=run.model.bf16,
                params_dtype=torch.bfloat16 if run.model.bf16 else torch.float32,
            ),
            model,
            use_gloo_process_groups=False,
        )
    return optimizer, build_schedule(run, optimizer)


def build_schedule(run: RunConfig, optimizer: Any) -> OptimizerParamScheduler:
    """The scheduler that sets the rates of whatever has param_groups: Megatron's optimizer, or one of torch's."""
    o, samples = run.optimizer, run.global_batch_size
    return OptimizerParamScheduler(
        optimizer,
        init_lr=o.lr_warmup_init,
        max_lr=o.lr,
        min_lr=o.min_lr,
        lr_warmup_steps=run.lr_warmup_iters * samples,
        lr_decay_steps=run.lr_decay_iters * samples,
        lr_decay_style=o.lr_decay_style,
        start_wd=o.weight_decay,
        end_wd=o.weight_decay,
        wd_incr_steps=run.lr_decay_iters * samples,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
    )
