"""Pretrain a GPT with DeepSpeed: ZeRO 1, 2 or 3, and sequences shared by Ulysses, with the flags of `pretrain_gpt`.

    torchrun --nproc-per-node 2 -m ascendspeed.training.deepspeed.pretrain_gpt --deepspeed-config zero2.json --help

`examples/deepspeed/pretrain_gpt.sh` starts it with the settings of a small model; docs/deepspeed.md has the flags.
"""

import sys
import warnings
from collections.abc import Sequence

import torch.distributed as dist

from ascendspeed.training import environment
from ascendspeed.training.deepspeed import flags
from ascendspeed.training.mistakes import Mistake, exit_alone, exit_together

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Train as `argv` says (the command line's if None). A mistake of the user's ends all ranks with one line."""
    try:
        run, settings = flags.parse(sys.argv[1:] if argv is None else argv)
        environment.check()
        with warnings.catch_warnings():  # imported here: a wrong flag is told before megatron-core has loaded
            warnings.filterwarnings("ignore", message=".*Apex (is|are) not installed", category=UserWarning)
            from ascendspeed.training.deepspeed.loop import train
        train(run, settings)
    except Mistake as mistake:
        exit_together(mistake)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except (Exception, KeyboardInterrupt) as error:
        exit_alone(error)
