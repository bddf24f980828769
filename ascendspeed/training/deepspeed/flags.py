"""The command line of the training under DeepSpeed: `training.flags`, less what ZeRO replaces, and three flags more.

`python -m ascendspeed.training.deepspeed.flags` prints the tables of docs/deepspeed.md.
"""

import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ascendspeed.training import flags
from ascendspeed.training.configs import DeepSpeedConfig, RunConfig
from ascendspeed.training.deepspeed import json_file
from ascendspeed.training.mistakes import Mistake

__all__ = ["NOT_HONOURED", "markdown", "parse"]

# Flags of `training.flags` that are refused here, and why. What is not in this list is honoured.
_CUT = "no layer is cut up under DeepSpeed: ZeRO shards parameters, --ds-sequence-parallel-size shares sequences"
_ZERO = "ZeRO reduces and shards by itself; its settings are in the JSON file, under zero_optimization"
NOT_HONOURED = {
    "tensor_model_parallel_size": _CUT,
    "sequence_parallel": _CUT,
    "pipeline_model_parallel_size": _CUT,
    "num_layers_per_virtual_pipeline_stage": _CUT,
    "num_virtual_stages_per_pipeline_rank": _CUT,
    "overlap_grad_reduce": _ZERO,
    "overlap_param_gather": _ZERO,
    "ddp_bucket_size": _ZERO,
    "grad_reduce_in_bf16": _ZERO,
    "use_distributed_optimizer": _ZERO,
    "reset_attention_mask": "documents of a sample are not kept apart yet where a sequence may be shared",
}


def parse(argv: Sequence[str], world_size: int | None = None) -> tuple[RunConfig, dict[str, Any]]:
    """The settings that `argv` asks for, checked, and DeepSpeed's own; `Mistake` says what is wrong with them.

    `world_size` is the number of processes, torchrun's WORLD_SIZE if it is not given.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    parser = _parser()
    if {"-h", "--help"} & set(argv):
        if os.environ.get("RANK", "0") == "0":
            parser.print_help()
        flags.parse(["--help"], processes)
    own, others = parser.parse_known_args(argv)
    deepspeed = DeepSpeedConfig(**{each.name: getattr(own, each.name) for each in dataclasses.fields(DeepSpeedConfig)})
    slices = deepspeed.ds_sequence_parallel_size
    if slices < 1 or processes % slices:
        raise Mistake(f"--ds-sequence-parallel-size={slices} does not divide {processes} processes")
    run = flags.parse(others, processes // slices)  # what its rules count is batches; slices have no own
    run = dataclasses.replace(run, world_size=processes, deepspeed=deepspeed)
    for mistake in _mistakes(run, slices):
        raise Mistake(mistake)
    settings = json_file.read(run)
    stage = settings["zero_optimization"]["stage"]
    return dataclasses.replace(run, deepspeed=dataclasses.replace(deepspeed, zero_stage=stage)), settings


def markdown() -> str:
    """The tables of docs/deepspeed.md: the flags more, and those refused."""
    lines = ["| flag | default | meaning, unit |", "|---|---|---|"]
    for each in dataclasses.fields(DeepSpeedConfig):
        default = "required" if each.metadata.get("required") else "" if each.default is None else f"`{each.default}`"
        lines.append(f"| `{_name(each.name)}` | {default} | {each.metadata['help']} |")
    lines += ["", "| refused | because |", "|---|---|"]
    return "\n".join(lines + [f"| `{_name(name)}` | {why} |" for name, why in NOT_HONOURED.items()]) + "\n"


def _mistakes(run: RunConfig, slices: int) -> Iterator[str]:
    m = run.model
    for group in (getattr(run, name) for name in flags.GROUPS):
        for each in dataclasses.fields(group):
            if each.name in NOT_HONOURED and getattr(group, each.name) != each.default:
                yield f"{_name(each.name)} is not honoured with DeepSpeed: {NOT_HONOURED[each.name]}"
    if slices > 1 and m.position_embedding_type == "alibi":
        yield f"--position-embedding-type alibi with --ds-sequence-parallel-size={slices} is not supported yet"
    if m.seq_length % slices:
        yield f"--seq-length={m.seq_length} is not divisible by --ds-sequence-parallel-size={slices}"


def _parser() -> flags.Parser:
    parser = flags.Parser(
        prog="python -m ascendspeed.training.deepspeed.pretrain_gpt",
        description="Pretrain a GPT with DeepSpeed. These flags, and those of pretrain_gpt, which follow.",
        allow_abbrev=False,
        add_help=False,
    )
    for each in dataclasses.fields(DeepSpeedConfig):
        names = (
            dict.fromkeys((_name(each.name), "--" + each.name))
            if each.name == "deepspeed_config"
            else [_name(each.name)]
        )
        required = bool(each.metadata.get("required"))
        parser.add_argument(
            *names,
            dest=each.name,
            required=required,
            default=None if required else each.default,
            type=str if each.type is str else int,
            help=each.metadata["help"],
        )
    parser.add_argument("--deepspeed", action="store_true", help="accepted: the training is DeepSpeed's")
    return parser


def _name(field: str) -> str:
    return "--" + field.replace("_", "-")


if __name__ == "__main__":
    sys.stdout.write(markdown())
