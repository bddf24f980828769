"""A tiny GPT trained a few steps by DeepSpeed on every rank, or by megatron-core on one: what the tests compare.

Both see the same samples: 2 micro-batches of 2 sequences per step. A part of the tokens is left out of the loss, other
ones in each sequence, so that a slice of a sequence does not count as much as its neighbour.
"""

import warnings
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from ascendspeed import device as devices
from ascendspeed.device import cuda_shim
from ascendspeed.integrations.deepspeed import (
    distribute_sequence,
    initialize,
    local_slice,
    sequence_parallel_group,
    slice_loss,
)
from ascendspeed.integrations.deepspeed.library import load
from ascendspeed.integrations.megatron import get_gpt_layer_spec, report_attention_contract

__all__ = ["LR", "STEPS", "Case", "Training", "train_by_deepspeed", "train_by_megatron"]

LAYERS, HIDDEN, HEADS, VOCAB, LENGTH, BATCH, MICROBATCHES, STEPS = 2, 64, 4, 96, 16, 2, 2, 4
LR, CLIP = 1e-2, 1.0


@dataclass(frozen=True)
class Case:
    """One model; for DeepSpeed also the stage of ZeRO and the number of slices of a sequence."""

    groups: int = 2  # key/value heads, of 4 query heads
    positions: str = "rope"
    dtype: torch.dtype = torch.float32
    tied: bool = True  # embedding and output weights are one parameter
    recompute: bool = False
    stage: int = 0
    slices: int = 1


@dataclass(frozen=True)
class Training:
    """Mean loss of each step before its update, the norm of each step's gradient, and the weights after the last."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, Tensor]
    contract: list[str]


def train_by_megatron(cases: list[Case]) -> list[Training]:
    """In a world of one process: megatron-core's own DDP, schedule and optimizer."""
    _start()
    trainings = []
    for case in cases:
        gpt, config = _model(case)
        module = Float16Module(config, gpt) if config.bf16 else gpt
        model = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), module)
        config.finalize_model_grads_func = finalize_model_grads
        settings = OptimizerConfig(
            optimizer="adam", lr=LR, weight_decay=0.0, clip_grad=CLIP, bf16=config.bf16, params_dtype=case.dtype
        )
        optimizer = get_megatron_optimizer(settings, [model])
        losses, norms = [], []
        for step in range(STEPS):
            model.zero_grad_buffer()
            optimizer.zero_grad()
            sums = get_forward_backward_func()(
                forward_step_func=_forward_step,
                data_iterator=iter(_batches(step)),
                model=[model],
                num_microbatches=MICROBATCHES,
                seq_length=LENGTH,
                micro_batch_size=BATCH,
                forward_only=False,
            )
            losses.append(_mean(torch.stack(sums).double().sum(dim=0)))
            norms.append(float(optimizer.step()[1]))
        weights = {name: parameter.detach().float().clone() for name, parameter in gpt.named_parameters()}
        trainings.append(Training(losses, norms, weights, []))
    return trainings


def train_by_deepspeed(cases: list[Case]) -> list[Training]:
    """On every rank of a world of any size: Ulysses over `case.slices` ranks, ZeRO over all."""
    _start()
    deepspeed = load()
    trainings = []
    for case in cases:
        gpt, _ = _model(case)
        group = sequence_parallel_group(case.slices)
        distribute_sequence(gpt, group)
        contract = report_attention_contract(gpt, log=lambda line: None)
        replicas = dist.get_world_size() // case.slices
        config = {
            "train_micro_batch_size_per_gpu": BATCH // replicas,
            "gradient_accumulation_steps": MICROBATCHES,
            "gradient_clipping": CLIP,
            "zero_optimization": {"stage": case.stage, "stage3_param_persistence_threshold": 0},
            "bf16": {"enabled": case.dtype == torch.bfloat16},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
        engine = initialize(gpt, torch.optim.AdamW(gpt.parameters(), lr=LR, weight_decay=0.0), config)
        first = dist.get_rank() // case.slices * (BATCH // replicas)
        losses, norms = [], []
        for step in range(STEPS):
            sums = torch.zeros(2, dtype=torch.float64)
            for batch in _batches(step):
                mine = [local_slice(each[first : first + BATCH // replicas], group) for each in batch]
                tokens, positions, labels, loss_mask = mine
                output = engine(tokens, positions, None, labels=labels)
                engine.backward(slice_loss(output, loss_mask, group))
                engine.step()
                sums += torch.stack([(output.detach().float() * loss_mask).sum(), loss_mask.sum()]).double()
            dist.all_reduce(sums)
            losses.append(_mean(sums))
            norms.append(float(engine.get_global_grad_norm()))
        weights = {}
        for name, parameter in gpt.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=case.stage == 3):
                weights[name] = parameter.detach().float().clone()
        trainings.append(Training(losses, norms, weights, contract))
    return trainings


def _start() -> None:
    warnings.simplefilter("ignore")  # torch's new names for what both libraries call by the old ones
    cuda_shim.install(devices.current())
    parallel_state.initialize_model_parallel()


def _model(case: Case) -> tuple[GPTModel, TransformerConfig]:
    torch.manual_seed(1)
    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=case.groups,
        normalization="RMSNorm",
        params_dtype=case.dtype,
        bf16=case.dtype == torch.bfloat16,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        masked_softmax_fusion=False,
        use_cpu_initialization=True,
        recompute_granularity="full" if case.recompute else None,
        recompute_method="uniform" if case.recompute else None,
        recompute_num_layers=1 if case.recompute else None,
    )
    gpt = GPTModel(
        config,
        get_gpt_layer_spec(config, mask="causal"),
        vocab_size=VOCAB,
        max_sequence_length=LENGTH,
        position_embedding_type=case.positions,
        share_embeddings_and_output_weights=case.tied,
    )
    return gpt.to(devices.current().current_device()), config


def _batches(step: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Tokens, position ids, labels and loss mask of each micro-batch, [BATCH, LENGTH]."""
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(0, VOCAB, (MICROBATCHES, BATCH, LENGTH + 1), generator=generator)
    positions = torch.arange(LENGTH).expand(BATCH, -1)
    # Of every sequence a few tokens at the beginning, so many in all of one replica as of the other: megatron-core
    # averages the means of data-parallel ranks, and they are two in some cases here and one in others.
    loss_mask = torch.ones(BATCH, LENGTH)
    loss_mask[:, :5] = 0
    return [(each[:, :-1], positions, each[:, 1:], loss_mask) for each in tokens]


def _forward_step(batches, model):
    tokens, positions, labels, loss_mask = next(batches)
    losses = model(tokens, positions, None, labels=labels)

    def sums(output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, count = (output.float() * loss_mask).sum(), loss_mask.sum()
        return loss, count.int(), torch.stack([loss.detach(), count])

    return losses, sums


def _mean(sums: Tensor) -> float:
    loss, tokens = sums.tolist()
    return loss / tokens
