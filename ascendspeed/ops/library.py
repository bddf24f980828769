"""torch.ops.ascendspeed in Python: loading the kernels, and output shapes for fake tensors.

No arithmetic and no rule lives here: rules are csrc/attention/rules.cpp, which the fake kernels call too. Schemas are
csrc/torch/schema.cpp, the gradient csrc/torch/autograd.cpp.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ascendspeed import _C  # type: ignore[attr-defined]
from ascendspeed.ops import layout

__all__ = ["active_isa", "check_forward", "forward", "gives_dpse", "multiplies_bfloat16", "peak_gflops"]

_FORWARD = torch.ops.ascendspeed.flash_attention_score.default
_BACKWARD = torch.ops.ascendspeed.flash_attention_score_grad.default


def active_isa() -> str:
    """Name of the instruction set the CPU kernels run on, a value of ASCENDSPEED_CPU_ISA (docs/environment.md).

    Raises:
        ValueError: the environment variable ASCENDSPEED_CPU_ISA names one that this machine lacks.
    """
    return _C.active_isa()


def multiplies_bfloat16() -> bool:
    """Whether the CPU kernels multiply bfloat16 as it is, with float32 sums, instead of converting it to float32.

    Then P and dS are rounded to bfloat16 before they are multiplied, as the operator's specification has it, and
    numbers below the smallest normal one count as 0.
    """
    return _C.multiplies_bfloat16()


def peak_gflops(dtype: torch.dtype, seconds: float = 0.2) -> float:
    """What this machine can multiply and add at most, in GFLOP/s: a loop on registers, beside which a kernel is judged.

    It runs on torch.get_num_threads() threads with the instructions that the kernels use for the dtype.

    Args:
        dtype: torch.float32, or torch.bfloat16 or torch.float16.
        seconds: about how long to measure.
    """
    threads, bfloat16 = torch.get_num_threads(), dtype == torch.bfloat16
    with ThreadPoolExecutor(threads) as pool:

        def rate(rounds: int) -> tuple[float, float]:
            start = time.perf_counter()
            operations = sum(pool.map(_C.spin, [bfloat16] * threads, [rounds] * threads))
            elapsed = time.perf_counter() - start
            return operations / elapsed / 1e9, elapsed

        rounds, elapsed = 1000, 0.0
        while elapsed < seconds / 8:
            _, elapsed = rate(rounds)
            rounds = int(rounds * min(100.0, seconds / 4 / max(elapsed, 1e-9))) + 1
        return max(rate(rounds)[0] for _ in range(4))  # the best: what disturbs it only ever slows it down


def gives_dpse(pse: Tensor | None) -> bool:
    """Whether the backward alone can return a gradient for this pse: on an NPU CANN does not say what dpse is."""
    return pse is not None and pse.device.type != "npu"


def _concrete(size: Any) -> int | None:
    """A size as a number: symbolic ones by the hint of the trace, so that checking them adds no guard."""
    return size if isinstance(size, int) else size.node.hint


def _checkable(argument: Any) -> tuple[bool, Any]:
    """(known, argument as _C.check_* takes it); unknown when a size has no hint, and the kernel then checks alone."""
    if not isinstance(argument, Tensor):
        return True, list(argument) if isinstance(argument, list | tuple) else argument
    sizes = [_concrete(size) for size in argument.shape]
    return None not in sizes, (sizes, argument.dtype, str(argument.device))


def _filled(op: torch._ops.OpOverload, given: tuple) -> dict[str, Any]:
    """A call's arguments by name, those left out filled with the schema's defaults."""
    parameters = op._schema.arguments
    defaults = [parameter.default_value for parameter in parameters[len(given) :]]
    return dict(zip((p.name for p in parameters), (*given, *defaults), strict=True))


def _check(rule: Any, arguments: dict[str, Any]) -> None:
    """Apply the C++ rules to all arguments of a call."""
    checkable = [_checkable(argument) for argument in arguments.values()]
    if all(known for known, _ in checkable):
        rule(*(argument for _, argument in checkable))


def check_forward(*given: Any, **attributes: Any) -> None:
    """Apply the rules of flash_attention_score to a call's arguments, and do no more.

    Raises:
        ValueError: what the call would raise.
    """
    _check(_C.check_forward, _filled(_FORWARD, given) | attributes)


def forward(query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """torch.ops.ascendspeed.flash_attention_score of all its arguments in the order of the schema, and softmax_out, an
    empty tensor; sooner: torch.ops takes longer to parse them than a problem of a few tokens to compute."""
    outputs = None if torch.compiler.is_compiling() else _C.call_directly(query, *others)
    if outputs is None:
        return (*_FORWARD(query, *others), query.new_empty(0, dtype=torch.float32))
    return outputs


@torch.library.register_fake("ascendspeed::flash_attention_score")
def _(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, *attributes: Any
) -> tuple[Tensor, Tensor, Tensor]:
    check_forward(query, key, value, head_num, input_layout, *attributes)
    stats = layout.stats_shape(query, head_num, input_layout)
    return (
        query.new_empty(layout.output_shape(query, key, value, head_num, input_layout)),
        query.new_empty(stats, dtype=torch.float32),
        query.new_empty(stats, dtype=torch.float32),
    )


@torch.library.register_fake("ascendspeed::flash_attention_score_grad")
def _(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, ...]:
    arguments = _filled(_BACKWARD, (query, key, value, *others))
    _check(_C.check_backward, arguments)
    if arguments["needs_dpse"] and arguments["pse"] is not None and arguments["pse_type"] in (2, 3):
        raise NotImplementedError(f"pse: the slopes of pse_type {arguments['pse_type']} have no gradient")
    pse, sink = arguments["pse"], arguments["sink"]
    return (
        query.new_empty(query.shape),
        key.new_empty(key.shape),
        value.new_empty(value.shape),
        query.new_empty(0) if pse is None or not arguments["needs_dpse"] else pse.new_empty(pse.shape),
        query.new_empty(0 if sink is None else sink.shape, dtype=torch.float32),
        *(
            query.new_empty(0 if rope is None else rope.shape)
            for rope in (arguments["query_rope"], arguments["key_rope"])
        ),
    )


@torch.library.register_fake("ascendspeed::dropout_gen_mask")
def _(self: Tensor, numel: int, keep_prob: float, seed: int, offset: int) -> Tensor:
    if _concrete(numel) is not None:
        _C.check_dropout(_concrete(numel), keep_prob)
    return self.new_empty((numel + 127) // 128 * 16, dtype=torch.uint8)
