"""Time of the attention operator, and of a step of a GPT around it, beside what they replace.

    python -m ascendspeed.bench attention --list
    python -m ascendspeed.bench attention --cases 'causal-*' --json attention.json --plot attention.png
    python -m ascendspeed.bench train --seq-length 4096 --profile

Only ratios carry from machine to machine. docs/performance.md says how they are measured.
"""

import argparse
import sys
from collections.abc import Sequence

from ascendspeed.bench import suite, train
from ascendspeed.bench.command_line import count, seconds
from ascendspeed.training.flags import Parser
from ascendspeed.training.mistakes import EXIT_CODE, Mistake

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark that `argv` (the command line's if None) asks for; a mistake in it ends with one line."""
    try:
        arguments = vars(_parser().parse_args(argv))
        run = arguments.pop("run")
        run(**arguments)
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None


def _parser() -> Parser:
    parser = Parser(
        prog="python -m ascendspeed.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(required=True, metavar="BENCHMARK")
    _add_attention(benchmarks.add_parser("attention", help="the operator beside torch's scaled_dot_product_attention"))
    _add_train(benchmarks.add_parser("train", help="a step of a GPT with our attention and with others in its place"))
    return parser


def _add_attention(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_attention)
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="names or patterns like 'tiny-*'; without it all")
    parser.add_argument("--list", action="store_true", help="print the names and what they are; measure nothing")
    parser.add_argument(
        "--rounds", type=count, default=7, metavar="N", help="measured rounds, after one to warm up (%(default)s)"
    )
    parser.add_argument(
        "--budget",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="of a case, after which it gets fewer rounds, but at least 3 (%(default)g)",
    )
    parser.add_argument("--threads", type=count, help="of torch and our kernels; without it torch's own number")
    parser.add_argument("--json", metavar="FILE", help="write everything there, the figures of every round included")
    parser.add_argument("--plot", metavar="FILE", help="draw a picture there, in the format of the file's ending")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=train.main)
    for size, what in (
        ("seq_length", "tokens of the sample"),
        ("num_layers", "transformer layers"),
        ("hidden_size", "width of the residual stream"),
        ("num_attention_heads", "heads of a layer"),
        ("vocab_size", "tokens of the vocabulary"),
    ):
        name = f"--{size.replace('_', '-')}"
        default = getattr(train.Shape, size)
        parser.add_argument(name, type=count, default=default, metavar="N", help=f"{what} (%(default)s)")
    parser.add_argument("--dtype", choices=("bf16", "float32"), default=train.Shape.dtype, help="(%(default)s)")
    parser.add_argument(
        "--attention",
        nargs="+",
        choices=train.ATTENTIONS,
        default=list(train.ATTENTIONS),
        help="; ".join(f"{name}: {what}" for name, what in train.ATTENTIONS.items()),
    )
    parser.add_argument(
        "--rounds", type=count, default=7, metavar="N", help="measured steps, after one to warm up (%(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="print what takes longest in a step of each")
    parser.add_argument("--json", metavar="FILE", help="write everything there, the time of every step included")


def _attention(*, list: bool, **arguments: object) -> None:
    if list:
        print(suite.describe_all())
    else:
        suite.main(**arguments)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
