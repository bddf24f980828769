"""Pretrain a GPT with megatron-core, our attention operator and Megatron-LM's flags. `main` is the story of a run.

    torchrun --nproc-per-node 2 -m ascendspeed.training.pretrain_gpt --help

`examples/pretrain_gpt.sh` starts it with the settings of a small model; docs/training.md has flags, data, outputs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from ascendspeed.integrations.megatron.contract import report_attention_contract
from ascendspeed.training import checkpoint, data, flags, model, optimizer, save_folder
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.initialize import initialize
from ascendspeed.training.mistakes import Mistake, exit_together, on_rank_0
from ascendspeed.training.report import Report, introduce
from ascendspeed.training.step import train_step, validate

__all__ = ["main", "train"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train as `argv` says (the command line's if None). A mistake of the user's ends all ranks with one line."""
    try:
        train(flags.parse(sys.argv[1:] if argv is None else argv))
    except Mistake as mistake:
        exit_together(mistake)
    dist.destroy_process_group()


def train(run: RunConfig) -> None:
    """Train from the start, or from the checkpoint of --load, to --train-iters; then validate and draw the curve."""
    device = initialize(run)
    resumed = on_rank_0(lambda: save_folder.look_at(run))
    corpus = data.build(run)
    on_rank_0(lambda: save_folder.claim(run, corpus.prepared))
    gpt = model.build(run, device, corpus.prepared.tokenizer.vocab_size)
    adam, schedule = optimizer.build(run, gpt)
    state = (gpt, adam, schedule, device)
    report_attention_contract(gpt)
    if resumed is not None and run.checkpoint.load is not None:
        checkpoint.load(Path(run.checkpoint.load), resumed, *state)
    introduce(run, device, corpus, gpt, resumed)

    report = Report(run, resumed or 0)
    last = run.training.train_iters
    micro_batches = data.training_batches(corpus, run, resumed or 0)
    for iteration in range((resumed or 0) + 1, last + 1):
        report.step(iteration, train_step(gpt, adam, schedule, micro_batches, run, device))
        if _due(run.report.eval_interval, iteration) and iteration < last:
            report.validation(iteration, validate(gpt, corpus, run, device))
        leaving = _due(run.training.exit_interval, iteration)
        if run.checkpoint.save is not None and (
            leaving or iteration == last or _due(run.checkpoint.save_interval, iteration)
        ):
            checkpoint.save(Path(run.checkpoint.save), iteration, *state)
            report.checkpoint(iteration)
        if leaving:
            last = iteration
            break
    report.validation(last, validate(gpt, corpus, run, device), final=True)
    report.finish(corpus.unigram_entropy)


def _due(interval: int | None, iteration: int) -> bool:
    return interval is not None and iteration % interval == 0


if __name__ == "__main__":
    main()
