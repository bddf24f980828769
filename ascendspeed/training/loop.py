"""The story of a run, as its table of contents: world, data, model, optimizer, resume, iterations, validation."""

from pathlib import Path

import torch

from ascendspeed.device import Device
from ascendspeed.integrations.megatron.contract import report_attention_contract
from ascendspeed.training import checkpoint, data, model, operator_limits, optimizer, save_folder
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.initialize import world
from ascendspeed.training.mistakes import on_every_rank, on_rank_0
from ascendspeed.training.report import Report, introduce
from ascendspeed.training.step import gathered_parameters, train_step, validate

__all__ = ["train"]


def train(run: RunConfig) -> None:
    """Train from the start, or from the checkpoint of --load, to --train-iters; then validate and draw the curve."""
    operator_limits.check(run)
    with world(run) as device:
        _train(run, device)


def _train(run: RunConfig, device: Device) -> None:
    resumed = on_rank_0(lambda: save_folder.look_at(run))
    corpus = data.build(run)
    claimed = on_rank_0(lambda: save_folder.claim(run, corpus.prepared))
    on_every_rank(lambda: save_folder.check_shared(run, resumed, claimed))
    gpt = model.build(run, device, corpus.prepared.tokenizer.vocab_size)
    adam, schedule = optimizer.build(run, gpt)
    state = (gpt, adam, schedule, device)
    report_attention_contract(torch.nn.ModuleList(gpt))
    if resumed is not None and run.checkpoint.load is not None:
        checkpoint.load(Path(run.checkpoint.load), resumed, *state)
    introduce(run, device, corpus, gpt, resumed)

    iteration = resumed or 0
    report = Report(run, iteration)
    micro_batches = data.training_batches(corpus, run, iteration)
    while iteration < run.training.train_iters:
        result = train_step(gpt, adam, schedule, micro_batches, run, device)
        iteration += 1
        report.step(iteration, result)
        last = iteration == run.training.train_iters or _due(run.training.exit_interval, iteration)
        if _due(run.report.eval_interval, iteration) and not last:
            report.validation(iteration, validate(gpt, corpus, run, device))
        if run.checkpoint.save is not None and (last or _due(run.checkpoint.save_interval, iteration)):
            with gathered_parameters(gpt):
                checkpoint.save(Path(run.checkpoint.save), iteration, *state)
            report.checkpoint(iteration)
        if last:
            break
    report.validation(iteration, validate(gpt, corpus, run, device), final=True)
    report.finish(corpus.unigram_entropy)


def _due(interval: int | None, iteration: int) -> bool:
    return interval is not None and iteration % interval == 0
