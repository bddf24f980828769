"""What a run tells while it trains: a line per interval, a progress bar on a terminal, TensorBoard events, the history.

Only rank 0 reports; on the other ranks every method does nothing.
"""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.tensorboard.writer import SummaryWriter
from tqdm import tqdm

from ascendspeed.device import Device
from ascendspeed.integrations.apex import choose_adam
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.data import Data, cache_folder
from ascendspeed.training.history import History
from ascendspeed.training.step import StepResult

__all__ = ["Report", "introduce"]


def introduce(
    run: RunConfig, device: Device, data: Data, model: Sequence[torch.nn.Module], resumed: int | None
) -> None:
    """Say on rank 0 what is about to be trained, on what, and from where."""
    if dist.get_rank() != 0:
        return
    adam = choose_adam(device.current_device())
    shard = sum(parameter.numel() for chunk in model for parameter in chunk.parameters())
    lines = [
        f"world: {run.world_size} on {device.name} ({device.collective_backend}), "
        f"data parallel {run.data_parallel_size}, {_model_parallel(run)}",
        f"data: {data.prepared.source}; {data.train_tokens} training and {data.valid_tokens} validation tokens, "
        f"vocabulary {data.prepared.tokenizer.vocab_size}, kept in {cache_folder(run)}",
        f"model: {run.model.num_layers} layers, {shard / 1e6:.2f} million parameters on this rank",
        f"optimizer: {adam.name} ({adam.reason})",
    ]
    if resumed is not None:
        lines.append(f"continuing after iteration {resumed} of {run.checkpoint.load}")
    elif run.checkpoint.load is not None:
        lines.append(f"no checkpoint in --load {run.checkpoint.load}: starting anew")
    print("\n".join(lines), flush=True)


def _model_parallel(run: RunConfig) -> str:
    """The ways a model, its training or a sequence is cut, in words."""
    p = run.parallel
    if run.deepspeed is not None:
        return f"ZeRO stage {run.deepspeed.zero_stage}, each sequence on {run.sequence_slices} processes"
    sequence = " with sequence parallel" if p.sequence_parallel else ""
    chunks = f" with {run.virtual_stages} model chunks each" if run.virtual_stages > 1 else ""
    return (
        f"tensor parallel {p.tensor_model_parallel_size}{sequence}, "
        f"pipeline parallel {p.pipeline_model_parallel_size}{chunks}"
    )


class Report:
    """The reporter of one run that continues after `iteration` iterations."""

    def __init__(self, run: RunConfig, iteration: int) -> None:
        self._run = run
        self._active = dist.get_rank() == 0
        self._since, self._iterations = time.perf_counter(), 0
        self._history: History | None = None
        self._events: SummaryWriter | None = None
        if not self._active:
            return
        save, events = run.checkpoint.save, run.report.tensorboard_dir
        if save is not None:
            self._history = History(Path(save), iteration)
            events = events or str(Path(save) / "tensorboard")
        if events is not None:
            self._events = SummaryWriter(events, purge_step=iteration + 1)
        self._bar = tqdm(
            total=run.training.train_iters,
            initial=iteration,
            unit="it",
            file=sys.stdout,
            disable=not sys.stdout.isatty(),
        )

    def step(self, iteration: int, result: StepResult) -> None:
        """One iteration is done."""
        if not self._active:
            return
        self._iterations += 1
        self._record(iteration, loss=result.loss, grad_norm=result.grad_norm, lr=result.lr)
        self._bar.update()
        if iteration % self._run.report.log_interval and iteration != self._run.training.train_iters:
            return
        seconds = (time.perf_counter() - self._since) / self._iterations
        tokens = self._run.global_batch_size * self._run.model.seq_length / seconds
        self._say(
            f"iteration {iteration:6d}/{self._run.training.train_iters} | loss {result.loss:.4f} | "
            f"grad norm {result.grad_norm:.3f} | lr {result.lr:.3e} | {seconds * 1e3:.1f} ms/it | {tokens:.0f} tokens/s"
        )
        if self._events is not None:
            self._events.add_scalar("speed/tokens per second", tokens, iteration)
        self._restart_clock()

    def validation(self, iteration: int, loss: float | None, *, final: bool = False) -> None:
        """A validation after `iteration` iterations; the last one of a run is marked. None: there was nothing to do."""
        if not self._active or loss is None:
            return
        extra = {"final": True} if final else {}
        self._record(iteration, validation_loss=loss, **extra)
        self._say(f"validation after {iteration} iterations: loss {loss:.4f}, perplexity {_perplexity(loss):.2f}")
        self._restart_clock()

    def checkpoint(self, iteration: int) -> None:
        """A checkpoint was written after `iteration` iterations."""
        if self._active:
            self._say(f"checkpoint after {iteration} iterations in {self._run.checkpoint.save}")
            self._restart_clock()

    def finish(self, unigram_entropy: float | None) -> None:
        """Draw the curve and close everything."""
        if not self._active:
            return
        self._bar.close()
        if unigram_entropy is not None:
            perplexity = _perplexity(unigram_entropy)
            print(f"unigram entropy of the validation text: {unigram_entropy:.4f}, perplexity {perplexity:.2f}")
        if self._history is not None:
            self._say(f"loss curve: {self._history.draw(unigram_entropy)}")
            self._history.close()
        if self._events is not None:
            self._events.close()

    def _restart_clock(self) -> None:
        """What is neither set-up, validation nor checkpoint counts as training."""
        self._since, self._iterations = time.perf_counter(), 0

    def _record(self, iteration: int, **values: float) -> None:
        if self._history is not None:
            self._history.add({"iteration": iteration, **values})
        if self._events is not None:
            for name, value in values.items():
                if name != "final":
                    self._events.add_scalar(name.replace("_", " "), value, iteration)

    def _say(self, message: str) -> None:
        self._bar.write(message, file=sys.stdout)  # above the bar, where there is one
        sys.stdout.flush()


def _perplexity(loss: float) -> float:
    """exp(loss), infinite where a float ends."""
    return math.exp(loss) if loss < 700 else math.inf
