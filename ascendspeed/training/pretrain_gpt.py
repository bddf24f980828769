"""Pretrain a GPT with megatron-core, our attention operator and Megatron-LM's flags.

    torchrun --nproc-per-node 2 -m ascendspeed.training.pretrain_gpt --help

`examples/pretrain_gpt.sh` starts it with the settings of a small model; docs/training.md has flags, data, outputs. What
a run consists of is `loop.train`.
"""

import sys
import warnings
from collections.abc import Sequence

import torch.distributed as dist

from ascendspeed.training import environment, flags
from ascendspeed.training.mistakes import Mistake, exit_alone, exit_together

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train as `argv` says (the command line's if None). A mistake of the user's ends all ranks with one line.

    Any other error leaves the process group as it is: destroying it may wait for a rank or a device that has failed.
    """
    try:
        run = flags.parse(sys.argv[1:] if argv is None else argv)
        environment.check()
        # Imported here and not above: a wrong flag is told before megatron-core has loaded, and the helper process that
        # dist_checkpointing spawns, which imports this module again, does not load it either.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*Apex (is|are) not installed", category=UserWarning)
            from ascendspeed.training.loop import train
        train(run)
    except Mistake as mistake:
        exit_together(mistake)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        exit_alone(error)
