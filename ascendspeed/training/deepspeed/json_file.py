"""DeepSpeed's JSON file: what it says beside the flags, and a refusal where the two contradict each other."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake

__all__ = ["read"]

# Handed to DeepSpeed as they are. What it does with them is in its documentation.
_PASSED_ON = (
    "comms_logger",
    "communication_data_type",
    "data_types",
    "dump_state",
    "flops_profiler",
    "memory_breakdown",
    "steps_per_print",
    "wall_clock_breakdown",
    "zero_optimization",
)
_REFUSED = {
    "fp16": "float16 training needs loss scaling, which is not there yet; use --bf16",
    "scheduler": "the learning rate follows --lr-decay-style, --lr-warmup-iters and their like",
    "tensorboard": "events go to --tensorboard-dir",
    "activation_checkpointing": "say --recompute-granularity",
    "sequence_parallel_size": "say --ds-sequence-parallel-size",
    "data_parallel_size": "it follows from the processes and --ds-sequence-parallel-size",
}
_OFFLOAD = (
    "offload_optimizer",
    "offload_param",
    # DeepSpeed's deprecated names, which it still follows.
    "cpu_offload",
    "cpu_offload_param",
    "cpu_offload_use_pin_memory",
)


def read(run: RunConfig) -> dict[str, Any]:
    """DeepSpeed's settings for `run`: those of its JSON file, completed by the flags.

    "auto" is what the flags say. `Mistake` names the file, the setting and the flag it contradicts.
    """
    assert run.deepspeed is not None
    name = run.deepspeed.deepspeed_config
    file = f"--deepspeed-config {name}"
    try:
        given = json.loads(Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise Mistake(f"{file}: {error.strerror}") from None
    except ValueError as error:
        raise Mistake(f"{file} is not JSON: {error}") from None
    if not isinstance(given, dict):
        raise Mistake(f"{file} holds no JSON object")
    for mistake in (*_unknown(given), *_contradictions(given, run), *_zero(given, run)):
        raise Mistake(f"{file}: {mistake}")
    return _completed(given, run)


def _said_by_flags(run: RunConfig) -> dict[str, tuple[Any, str]]:
    """Path of a setting: the value the flags give it, and the flag that does."""
    o = run.optimizer
    samples = f"--global-batch-size={run.global_batch_size}"
    return {
        "train_batch_size": (run.global_batch_size, samples),
        "train_micro_batch_size_per_gpu": (
            run.training.micro_batch_size,
            f"--micro-batch-size={run.training.micro_batch_size}",
        ),
        "gradient_accumulation_steps": (run.num_microbatches, f"{run.num_microbatches}, from {samples}"),
        "gradient_clipping": (o.clip_grad, f"--clip-grad={o.clip_grad}"),
        "bf16.enabled": (run.model.bf16, f"--bf16 {'given' if run.model.bf16 else 'not given'}"),
        "optimizer.type": ("AdamW", "--optimizer adam, which is AdamW"),
        "optimizer.params.lr": (o.lr, f"--lr={o.lr}"),
        "optimizer.params.betas": (
            [o.adam_beta1, o.adam_beta2],
            f"--adam-beta1={o.adam_beta1} --adam-beta2={o.adam_beta2}",
        ),
        "optimizer.params.eps": (o.adam_eps, f"--adam-eps={o.adam_eps}"),
        "optimizer.params.weight_decay": (o.weight_decay, f"--weight-decay={o.weight_decay}"),
    }


def _unknown(given: dict[str, Any]) -> Iterator[str]:
    known = {path.partition(".")[0] for path in _SECTIONS} | set(_PASSED_ON)
    for name in given:
        if name in _REFUSED and given[name] not in ({}, {"enabled": False}, None):
            yield f"{name}: {_REFUSED[name]}"
        if name not in known and name not in _REFUSED:
            close = difflib.get_close_matches(name, sorted(known), n=1)
            yield f"{name} is not a setting that is honoured here" + (f"; did you mean {close[0]}?" if close else "")


_SECTIONS = {
    "train_batch_size": None,
    "train_micro_batch_size_per_gpu": None,
    "gradient_accumulation_steps": None,
    "gradient_clipping": None,
    "bf16": {"enabled"},
    "optimizer": {"type", "params"},
    "optimizer.params": {"lr", "betas", "eps", "weight_decay"},
}


def _contradictions(given: dict[str, Any], run: RunConfig) -> Iterator[str]:
    for path, members in _SECTIONS.items():
        section = _at(given, path)
        if members is None or section is None:
            continue
        if not isinstance(section, dict):
            yield f"{path} must be an object, not {json.dumps(section)}"
            return
        for member in section:
            if member not in members:
                yield f"{path}.{member} is not a setting that is honoured here"
    for path, (value, flag) in _said_by_flags(run).items():
        there = _at(given, path)
        if not (there in (None, "auto") or _same(there, value)):
            yield f"{path} is {json.dumps(there)}, but the command line says {flag}; give both the same, or here 'auto'"


def _zero(given: dict[str, Any], run: RunConfig) -> Iterator[str]:
    assert run.deepspeed is not None
    zero, flag = given.get("zero_optimization", {}), run.deepspeed.zero_stage
    if not isinstance(zero, dict):
        yield f"zero_optimization must be an object, not {json.dumps(zero)}"
        return
    stage = zero.get("stage", "auto")
    if flag is not None and not (stage == "auto" or _same(stage, flag)):
        yield f"zero_optimization.stage is {json.dumps(stage)}, but the command line says --zero-stage={flag}"
    asked = stage if flag is None else flag
    if not any(_same(asked, known) for known in (1, 2, 3)):
        yield "zero_optimization.stage (or --zero-stage) must be 1, 2 or 3" + (
            "" if asked == "auto" else f", not {json.dumps(asked)}"
        )
    for name in _OFFLOAD:
        asked = zero.get(name)
        if asked and not (isinstance(asked, dict) and asked.get("device", "none") == "none"):
            yield f"zero_optimization.{name} is not supported yet: it needs kernels that DeepSpeed compiles"


def _completed(given: dict[str, Any], run: RunConfig) -> dict[str, Any]:
    assert run.deepspeed is not None
    zero = given.get("zero_optimization", {})
    stage = zero["stage"] if run.deepspeed.zero_stage is None else run.deepspeed.zero_stage
    return {
        # As megatron-core: gradients are summed and reduced in float32.
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,  # integrations.apex has compared it with torch's AdamW
        **{name: value for name, value in given.items() if name in _PASSED_ON},
        "zero_optimization": {**zero, "stage": stage},
        "train_micro_batch_size_per_gpu": run.training.micro_batch_size,
        "gradient_accumulation_steps": run.num_microbatches,
        "gradient_clipping": run.optimizer.clip_grad,
        "bf16": {"enabled": run.model.bf16},
    }


def _same(there: Any, value: Any) -> bool:
    """Whether JSON's value is this one; true is no number, though Python's True is 1."""
    return there == value and isinstance(there, bool) == isinstance(value, bool)


def _at(given: dict[str, Any], path: str) -> Any:
    """The value of a.b.c, None where there is none."""
    value: Any = given
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
