"""The story of a run under DeepSpeed, as its table of contents; what it shares with `training.loop` it calls."""

from pathlib import Path
from typing import Any

import torch.distributed as dist

from ascendspeed.device import Device
from ascendspeed.integrations.deepspeed import distribute_sequence, initialize, sequence_parallel_group
from ascendspeed.integrations.deepspeed.heads import ulysses_heads
from ascendspeed.integrations.deepspeed.library import load
from ascendspeed.integrations.megatron.contract import report_attention_contract
from ascendspeed.training import data, model, operator_limits, optimizer, save_folder
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.deepspeed import checkpoint
from ascendspeed.training.deepspeed.optimizer import build_optimizer
from ascendspeed.training.deepspeed.step import train_step, validate
from ascendspeed.training.initialize import seed_generators, world
from ascendspeed.training.mistakes import Mistake, on_every_rank, on_rank_0
from ascendspeed.training.report import Report, introduce

__all__ = ["train"]


def train(run: RunConfig, settings: dict[str, Any]) -> None:
    """Train from the start, or from the checkpoint of --load, to --train-iters; then validate and draw the curve."""
    _check_heads(run)
    operator_limits.check(run)
    with world(run) as device:
        on_every_rank(lambda: _check_settings(settings))
        _train(run, settings, device)


def _check_heads(run: RunConfig) -> None:
    m, slices = run.model, run.sequence_slices
    try:
        ulysses_heads(m.num_attention_heads, m.query_groups, slices)
    except ValueError as error:
        raise Mistake(f"--ds-sequence-parallel-size={slices}: {error}") from None


def _check_settings(settings: dict[str, Any]) -> None:
    """`Mistake` if DeepSpeed is not there, or does not take the settings, in its own words."""
    try:
        load("runtime.config").DeepSpeedConfig(settings)
    except (ImportError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise Mistake(f"--deepspeed-config: DeepSpeed says: {' '.join(str(error).split())}") from None


def _train(run: RunConfig, settings: dict[str, Any], device: Device) -> None:
    resumed = on_rank_0(lambda: save_folder.look_at(run))
    corpus = data.build(run)
    claimed = on_rank_0(lambda: save_folder.claim(run, corpus.prepared))
    on_every_rank(lambda: save_folder.check_shared(run, resumed, claimed))
    config = model.transformer_config(run)
    gpt = model.build_chunk(run, config, corpus.prepared.tokenizer.vocab_size).to(device.current_device())
    slices = sequence_parallel_group(run.sequence_slices)
    distribute_sequence(gpt, slices)
    seed_generators(run.training.seed + dist.get_rank(slices))  # or every slice would drop out the same numbers
    report_attention_contract(gpt)
    introduce(run, device, corpus, [gpt], resumed)
    adam = build_optimizer(run, gpt)
    engine = initialize(gpt, adam, settings)
    schedule = optimizer.build_schedule(run, adam)
    if resumed is not None and run.checkpoint.load is not None:
        checkpoint.load(Path(run.checkpoint.load), resumed, engine, schedule, device)

    iteration = resumed or 0
    report = Report(run, iteration)
    micro_batches = data.training_batches(corpus, run, iteration)
    while iteration < run.training.train_iters:
        result = train_step(engine, schedule, micro_batches, run, device, slices)
        iteration += 1
        report.step(iteration, result)
        last = iteration == run.training.train_iters or _due(run.training.exit_interval, iteration)
        if _due(run.report.eval_interval, iteration) and not last:
            report.validation(iteration, validate(engine, corpus, run, device, slices))
        if run.checkpoint.save is not None and (last or _due(run.checkpoint.save_interval, iteration)):
            checkpoint.save(Path(run.checkpoint.save), iteration, engine, schedule, device)
            report.checkpoint(iteration)
        if last:
            break
    report.validation(iteration, validate(engine, corpus, run, device, slices), final=True)
    report.finish(corpus.unigram_entropy)


def _due(interval: int | None, iteration: int) -> bool:
    return interval is not None and iteration % interval == 0
