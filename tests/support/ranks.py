"""Run a function on N ranks: a spawned process each, with a device of its own; all results, or a rank's traceback."""

import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from ascendspeed import device as devices
from tests.support.device import DEVICE

__all__ = ["RankFailedError", "run_ranks"]


class RankFailedError(AssertionError):
    """A rank raised, died or did not finish in time; the message holds its traceback."""


def run_ranks(
    world_size: int, function: Callable[..., Any], *args: Any, timeout: float = 240.0, device: str = DEVICE
) -> list[Any]:
    """Call function(*args) on every rank of a world; its rank is torch.distributed.get_rank().

    The device is selected (ascendspeed.device.current() is it), and is the rank's own card if there is more than one.
    Function and arguments must pickle (a function at the top of a module). Results travel through torch.save.
    The first rank that fails ends the others.

    Raises:
        RankFailedError: with the rank and its traceback, its exit code, or the timeout in seconds.
    """
    context = multiprocessing.get_context("spawn")  # fork would share torch's threads and Megatron's globals
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        pipes, ranks = [], []
        for rank in range(world_size):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_rank, args=(theirs, rank, world_size, folder, device, function, args))
            process.start()
            theirs.close()
            pipes.append(ours)
            ranks.append(process)
        try:
            results = _collect(pipes, deadline, timeout)
            for process in ranks:
                process.join(timeout=10)
            return results
        finally:
            for process in ranks:
                process.kill()
                process.join()


def _collect(pipes: list[Connection], deadline: float, timeout: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: list[str] = []
    while len(results) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            missing = [rank for rank in range(len(pipes)) if rank not in results]
            raise RankFailedError(f"ranks {missing} did not finish in {timeout:.0f} s")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                failed, payload = pipes[rank].recv()
            except EOFError:
                raise RankFailedError(f"rank {rank} died without a word") from None
            if failed:
                failures.append(f"rank {rank} of {len(pipes)}:\n{payload}")
            else:
                results[rank] = torch.load(io.BytesIO(payload), weights_only=False)
        if failures:  # both, when one rank's failure has already become another's
            raise RankFailedError("\n".join(failures))
    return [results[rank] for rank in range(len(pipes))]


def _rank(
    pipe: Connection,
    rank: int,
    world_size: int,
    folder: str,
    device: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    try:
        here = devices.select(device)
        here.set(rank)
        store = f"file://{folder}/store"
        dist.init_process_group(here.collective_backend, init_method=store, rank=rank, world_size=world_size)
        payload = io.BytesIO()
        torch.save(function(*args), payload)
        dist.barrier()  # nobody leaves while another still talks to it
        dist.destroy_process_group()
    except BaseException:
        pipe.send((True, traceback.format_exc()))
        os._exit(1)  # the others may wait for this rank for ever; the parent ends them
    pipe.send((False, payload.getvalue()))
    pipe.close()
