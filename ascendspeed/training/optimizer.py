"""megatron-core's optimizer around a fused Adam, and its schedule of learning rate and weight decay."""

from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from ascendspeed import device as devices
from ascendspeed.integrations.apex import choose_adam, megatron_adam
from ascendspeed.training.configs import RunConfig

__all__ = ["build", "build_schedule"]


def build(run: RunConfig, model: list[DistributedDataParallel]) -> tuple[MegatronOptimizer, OptimizerParamScheduler]:
    """The optimizer of the model's parameters, and the scheduler that counts in samples and sets its rates."""
    o = run.optimizer
    adam = choose_adam(devices.current().current_device())
    with megatron_adam(adam):
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
