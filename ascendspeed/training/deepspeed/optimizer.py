"""A fused Adam for DeepSpeed to shard: the parameter groups of megatron-core's optimizer."""

import torch

from ascendspeed.training.configs import RunConfig
from ascendspeed.training.optimizer import agreed_adam

__all__ = ["build_optimizer"]


def build_optimizer(run: RunConfig, gpt: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, none of it on biases and norms (wd_mult, which the schedule multiplies by)."""
    o = run.optimizer
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in gpt.named_parameters():
        (others if parameter.dim() == 1 or name.endswith(".bias") else decayed).append(parameter)
    return agreed_adam().make(
        [{"params": decayed, "wd_mult": 1.0}, {"params": others, "wd_mult": 0.0}],
        lr=o.lr,
        betas=(o.adam_beta1, o.adam_beta2),
        eps=o.adam_eps,
        weight_decay=o.weight_decay,
    )
