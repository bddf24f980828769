"""The command line: from `configs` to a parser, from argv to one `RunConfig`; what is not honoured is refused by name.

A flag is honoured (a field in `configs`), accepted (its meaning already holds, see `ACCEPTED`) or refused with a
sentence. None is ignored. `python -m ascendspeed.training.flags` prints the tables of docs/training.md.
"""

import argparse
import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ascendspeed.training import configs, known_flags, rules
from ascendspeed.training.mistakes import Mistake

__all__ = ["ACCEPTED", "GROUPS", "REFUSED", "Parser", "markdown", "parse"]

# RunConfig's groups in the order of the help: field name -> class.
GROUPS: dict[str, type] = {f.name: f.type for f in dataclasses.fields(configs.RunConfig) if isinstance(f.type, type)}
GROUPS.pop("world_size")


@dataclass(frozen=True)
class Accepted:
    """A flag whose meaning already holds: the values it may have (none for a switch) and why nothing needs doing."""

    because: str
    values: tuple[str, ...] = ()


_NO_FUSION = "there are no such fused kernels here to switch off"
ACCEPTED = {
    "--use-mcore-models": Accepted("the model is megatron-core's"),
    "--transformer-impl": Accepted("the layers are megatron-core's local ones", ("local",)),
    "--use-flash-attn": Accepted("attention is always the fused operator"),
    "--attention-backend": Accepted("attention is always the fused operator", ("auto", "flash", "fused")),
    "--attention-softmax-in-fp32": Accepted("the operator's softmax is in float32"),
    "--no-masked-softmax-fusion": Accepted(_NO_FUSION),
    "--no-bias-gelu-fusion": Accepted(_NO_FUSION),
    "--no-bias-swiglu-fusion": Accepted(_NO_FUSION),
    "--no-bias-dropout-fusion": Accepted(_NO_FUSION),
    "--no-rope-fusion": Accepted(_NO_FUSION),
    "--no-persist-layer-norm": Accepted(_NO_FUSION),
    "--no-gradient-accumulation-fusion": Accepted(_NO_FUSION),
    "--accumulate-allreduce-grads-in-fp32": Accepted(
        "gradients are summed and reduced in float32; --grad-reduce-in-bf16 takes precedence"
    ),
    "--distributed-backend": Accepted(
        "the device decides (cpu: gloo, npu: hccl, cuda: nccl), whatever a script says",
        ("nccl", "gloo", "hccl"),
    ),
    "--context-parallel-size": Accepted("context parallelism is not there yet", ("1",)),
    "--expert-model-parallel-size": Accepted("there are no experts", ("1",)),
    "--optimizer": Accepted("Adam is the only optimizer", ("adam",)),
    "--ckpt-format": Accepted("checkpoints are megatron-core's distributed ones", ("torch_dist",)),
    "--dataloader-type": Accepted("samples are read once, in order", ("single",)),
}

# Sentences for the known flags that many scripts pass; the other known ones get `_NOT_HONOURED`.
REFUSED = {
    "--fp16": "float16 training needs loss scaling, which is not there yet; use --bf16",
    "--use-fused-rmsnorm": "there is no fused RMSNorm; leave it out, the result is the same",
    "--use-fused-swiglu": "there is no fused SwiGLU; leave it out, the result is the same",
    "--use-fused-rotary-pos-emb": "there is no fused rotary embedding; leave it out, the result is the same",
    "--tokenizer-name-or-path": "pass the tokenizer.json, or the folder that holds it, as --tokenizer-model",
    "--num-experts": "mixture of experts is not there yet",
    "--multi-latent-attention": "multi-latent attention is not there yet",
    "--mock-data": "there is no mock data; without --data-path the text of Python's manual is used",
    "--spec": "the layers come from ascendspeed.integrations.megatron.get_gpt_layer_spec, no other can be named",
    "--train-samples": "give the length of the training as --train-iters",
}
_NOT_HONOURED = "this trainer does not honour it yet"


def parse(argv: Sequence[str], world_size: int | None = None) -> configs.RunConfig:
    """The settings that `argv` (without the program's name) asks for, checked; `Mistake` says what is wrong with them.

    `world_size` is the number of processes, torchrun's WORLD_SIZE if it is not given.
    """
    _refuse_what_is_not_honoured(argv)
    parser = _parser()
    if {"-h", "--help"} & set(argv):
        if os.environ.get("RANK", "0") == "0":
            parser.print_help()
        raise SystemExit(0)
    values = vars(parser.parse_args(argv))
    if values["use_rotary_position_embeddings"] and "--position-embedding-type" not in dict(_options(argv)):
        values["position_embedding_type"] = "rope"
    values["use_rotary_position_embeddings"] |= values["position_embedding_type"] == "rope"
    if values["recompute_activations"] and values["recompute_granularity"] is None:
        values["recompute_granularity"] = "selective"
    values["recompute_activations"] |= values["recompute_granularity"] == "selective"
    values["data_path"] = tuple(values["data_path"])
    groups = {
        name: group(**{f.name: values[f.name] for f in dataclasses.fields(group)}) for name, group in GROUPS.items()
    }
    run = configs.RunConfig(
        **groups, world_size=int(os.environ.get("WORLD_SIZE", "1")) if world_size is None else world_size
    )
    rules.check(run)
    return run


def markdown() -> str:
    """The tables of honoured, accepted and refused flags, as docs/training.md has them."""
    lines: list[str] = []
    for group in GROUPS.values():
        lines += ["", f"**{_title(group)}**", "", "| flag | default | meaning, unit |", "|---|---|---|"]
        lines += [f"| `{_name(f)}` | {_default(f)} | {_cell(f.metadata['help'])} |" for f in dataclasses.fields(group)]
    lines += ["", "**Accepted: the meaning already holds**", "", "| flag | values | because |", "|---|---|---|"]
    lines += [f"| `{name}` | {' '.join(a.values) or 'switch'} | {a.because} |" for name, a in ACCEPTED.items()]
    lines += ["", "**Refused, with the sentence given**", "", "| flag | sentence |", "|---|---|"]
    lines += [f"| `{name}` | {sentence} |" for name, sentence in REFUSED.items()]
    lines += [f"| every other flag of Megatron-LM or MindSpeed-LLM | {_NOT_HONOURED} |"]
    return "\n".join(lines[1:]) + "\n"


class Parser(argparse.ArgumentParser):
    """argparse that raises `Mistake` where it would print and exit, so that every rank goes the same way."""

    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m ascendspeed.training.pretrain_gpt",
        description="Pretrain a GPT with megatron-core. Flags have Megatron-LM's names, meaning and defaults unless "
        "marked (ours).",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for group in GROUPS.values():
        arguments = parser.add_argument_group(_title(group))
        for each in dataclasses.fields(group):
            arguments.add_argument(_name(each), **_argparse_options(each))
    accepted = parser.add_argument_group("Accepted, nothing needs doing")
    for name, flag in ACCEPTED.items():
        options: dict[str, Any] = {"choices": flag.values} if flag.values else {"action": "store_true"}
        accepted.add_argument(name, dest="_accepted", default=argparse.SUPPRESS, help=flag.because, **options)
    return parser


def _argparse_options(flag: "dataclasses.Field[Any]") -> dict[str, Any]:
    """What argparse needs to know of one field of a configuration class."""
    options: dict[str, Any] = {k: v for k, v in flag.metadata.items() if k in ("choices", "nargs", "required")}
    options["help"] = flag.metadata["help"].replace("%", "%%")
    if not flag.metadata.get("required"):
        options["default"] = flag.default
    if flag.type is bool:
        options["action"] = "store_true"
    else:
        options["type"] = flag.metadata.get("parse") or _value_type(flag.type)
    return options


def _value_type(annotation: Any) -> type:
    """int of `int`, `int | None` and `tuple[int, ...]`."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is tuple:
        return next(a for a in typing.get_args(annotation) if a not in (type(None), Ellipsis))
    return annotation


def _refuse_what_is_not_honoured(argv: Sequence[str]) -> None:
    honoured = {_name(f) for group in GROUPS.values() for f in dataclasses.fields(group)} | set(ACCEPTED)
    for name, value in _options(argv):
        accepted = ACCEPTED.get(name)
        if accepted and accepted.values and value not in accepted.values:
            allowed = " or ".join(accepted.values)
            raise Mistake(f"{name} {value}: {accepted.because}; only {name} {allowed} is accepted")
        if name in honoured or name == "--help":
            continue
        if name in REFUSED:
            raise Mistake(f"{name}: {REFUSED[name]}")
        if name[2:] in known_flags.MEGATRON_LM:
            raise Mistake(f"{name} is a flag of Megatron-LM; {_NOT_HONOURED}")
        if name[2:] in known_flags.MINDSPEED_LLM:
            raise Mistake(f"{name} is a flag of MindSpeed-LLM; {_NOT_HONOURED}")
        close = difflib.get_close_matches(name, sorted(honoured), n=1)
        raise Mistake(f"{name} is not a flag; " + (f"did you mean {close[0]}?" if close else "--help lists them"))


def _options(argv: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(name, value) of every --option; the value is what follows, whether or not it is the option's."""
    for index, word in enumerate(argv):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            following = argv[index + 1] if index + 1 < len(argv) else None
            yield name, value if equals else following


def _name(flag: "dataclasses.Field[Any]") -> str:
    return "--" + flag.name.replace("_", "-")


def _title(group: type) -> str:
    return (group.__doc__ or group.__name__).rstrip(".")


def _default(flag: "dataclasses.Field[Any]") -> str:
    if flag.metadata.get("required"):
        return "required"
    if flag.type is bool:
        return "off"
    return "" if flag.default in (None, ()) else f"`{flag.default}`"


def _cell(help: str) -> str:
    return help.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(markdown())
