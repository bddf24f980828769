"""A mistake of the user's becomes one line on each node and a non-zero exit of every rank, and nothing else.

Whoever finds a mistake raises `Mistake`. A check that only one rank can make (a file, a folder, prepared data) goes
through `on_rank_0`; a check whose answer may differ between ranks goes through `on_every_rank`. Both make all ranks
agree on the outcome, so that no rank is left waiting in a collective. Defects of the program and failures of a device
are not mistakes: they keep their traceback, the rank goes at once, and torchrun ends the other ranks.
"""

import datetime
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import torch.distributed as dist

__all__ = ["EXIT_CODE", "Mistake", "exit_alone", "exit_together", "on_every_rank", "on_rank_0"]

EXIT_CODE = 2  # argparse's code for a command line that cannot be run

_PATIENCE = datetime.timedelta(days=1)  # for what rank 0 does alone; a large text is tokenized for hours
_calls = itertools.count()

Result = TypeVar("Result")


class Mistake(ValueError):
    """The run as asked for cannot be done; the message names the flag or file, its value and the rule."""


def on_rank_0(work: Callable[[], Result]) -> Result:
    """Run `work` on rank 0 and return its (picklable) result on every rank; its `Mistake` is raised on every rank.

    The others wait outside of a collective, whose limit (--distributed-timeout-minutes) is for work that all share.
    """
    box: list[object] = [None, None]
    done = f"ascendspeed/on_rank_0/{next(_calls)}"
    if _rank() == 0:
        box = _attempt(work)
    if dist.is_initialized():
        store = dist.distributed_c10d._get_default_store()
        if _rank() == 0:
            store.set(done, "")
        else:
            store.wait([done], _PATIENCE)
        dist.broadcast_object_list(box, src=0)
    result, mistake = box
    if isinstance(mistake, Mistake):
        raise mistake
    return result  # type: ignore[return-value]


def on_every_rank(work: Callable[[], Result]) -> Result:
    """Run `work` on every rank; if it was a `Mistake` on any of them, the lowest such rank's is raised on all."""
    result, mistake = _attempt(work)
    found: list[object] = [mistake]
    if dist.is_initialized():
        found = [None] * dist.get_world_size()
        dist.all_gather_object(found, mistake)
    for each in found:
        if isinstance(each, Mistake):
            raise each
    return result  # type: ignore[return-value]


def exit_together(mistake: Mistake, patience: float = 60.0) -> NoReturn:
    """Print `mistake` on the first rank of each node and end this process with `EXIT_CODE` once all ranks are here.

    torchrun ends every process as soon as one has failed, so a rank that leaves early would silence the others: they
    are waited for, but no longer than `patience` seconds, because a mistake that not every rank has found (a flag or a
    device of one node) brings only some of them here. A node whose first rank has not come is told by another rank.
    A launcher that restarts jobs is told in a file that this one would end in the same way again.
    """
    first = int(os.environ.get("LOCAL_RANK", _rank())) == 0
    if first:
        _print(mistake)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    together = world == 1 or _all_here(world, patience)
    if not together and not first:
        _print(mistake)
    if together and dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    if not together:
        os._exit(EXIT_CODE)  # what tidies up at the end of a process would wait for the ranks that have not come
    raise SystemExit(EXIT_CODE)


def _print(mistake: Mistake) -> None:
    """Say it, unless another rank of this node has."""
    told = os.environ.get("ASCENDSPEED_MISTAKE_FILE")
    if told and Path(told).exists():
        return
    print(f"error: {mistake}", file=sys.stderr, flush=True)
    if told:
        Path(told).write_text(str(EXIT_CODE))


def _all_here(world: int, patience: float) -> bool:
    """Whether every rank has come here within `patience` seconds, by the store in which torchrun's ranks meet."""
    deadline = time.monotonic() + patience
    timeout = datetime.timedelta(seconds=patience)
    come = 0
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
        come = store.add("mistakes", 1)
        while come < world and time.monotonic() < deadline:
            time.sleep(0.1)
            come = store.add("mistakes", 0)
        if _rank() == 0:
            time.sleep(0.5)  # the store ends with this process: the others read the number first
    except (RuntimeError, ValueError):  # rank 0, which holds the store, is not there
        pass
    return come >= world


def exit_alone(error: BaseException) -> NoReturn:
    """Print the traceback of `error` and end this process with code 1, without tidying up.

    Tidying up would wait for the other ranks, and for work of a device that has failed: each reports the same failure
    once more, or waits for the timeout.
    """
    sys.excepthook(type(error), error, error.__traceback__)  # torch's names the rank in each line
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _attempt(work: Callable[[], Result]) -> list[object]:
    """[result, None] or [None, mistake]."""
    try:
        return [work(), None]
    except Mistake as mistake:
        return [None, mistake]


def _rank() -> int:
    """The rank torchrun gave this process, 0 when there is no torchrun; known before torch.distributed is."""
    return int(os.environ.get("RANK", "0"))
