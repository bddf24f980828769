"""torch.ops.ascendspeed in Python: loading the kernels, output shapes for fake tensors, and the gradient.

No arithmetic and no rule lives here: rules are csrc/attention/rules.cpp, which the fake kernels call too. Schemas are
csrc/torch/schema.cpp.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ascendspeed import _C  # type: ignore[attr-defined]
from ascendspeed.ops import layout

__all__ = ["active_isa", "check_forward", "gives_dpse", "multiplies_bfloat16", "peak_gflops"]

_FORWARD = torch.ops.ascendspeed.flash_attention_score.default
_BACKWARD = torch.ops.ascendspeed.flash_attention_score_grad.default
# Where the differentiable ones are among the arguments after query, key and value.
_PSE, _SINK, _QUERY_ROPE, _KEY_ROPE = (
    [p.name for p in _FORWARD._schema.arguments].index(name) - 3 for name in ("pse", "sink", "query_rope", "key_rope")
)


def active_isa() -> str:
    """Name of the instruction set the CPU kernels run on, a value of ASCENDSPEED_CPU_ISA (docs/environment.md).

    Raises:
        ValueError: the environment variable ASCENDSPEED_CPU_ISA names one that this machine lacks.
    """
    return _C.active_isa()


def multiplies_bfloat16() -> bool:
    """Whether the CPU kernels multiply bfloat16 as it is, with float32 sums, instead of converting it to float32.

    Then P and dS are rounded to bfloat16 before they are multiplied, as the operator's specification has it, and numbers
    below the smallest normal one count as 0.
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
    rounds = 1000
    with ThreadPoolExecutor(threads) as pool:
        while True:
            start = time.perf_counter()
            operations = sum(pool.map(lambda _: _C.spin(bfloat16, rounds), range(threads)))
            elapsed = time.perf_counter() - start
            if elapsed >= seconds / 2:
                return operations / elapsed / 1e9
            rounds = int(rounds * min(100.0, seconds / max(elapsed, 1e-9))) + 1


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


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    query, key, value, *attributes = inputs
    attention_out, softmax_max, softmax_sum = output
    ctx.mark_non_differentiable(softmax_max, softmax_sum)
    ctx.set_materialize_grads(False)
    ctx.needs_dpse, ctx.needs_dsink = (
        isinstance(attributes[i], Tensor) and attributes[i].requires_grad for i in (_PSE, _SINK)
    )
    # Tensors go through save_for_backward, so that autograd notices one that is changed in place meanwhile.
    ctx.is_tensor = [isinstance(a, Tensor) for a in attributes]
    ctx.values = [None if isinstance(a, Tensor) else a for a in attributes]
    tensors = (a for a in attributes if isinstance(a, Tensor))
    ctx.save_for_backward(query, key, value, attention_out, softmax_max, softmax_sum, *tensors)


def _backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    dq = dk = dv = None
    others: list[Tensor | None] = [None] * len(ctx.values)
    if dy is not None:
        query, key, value, attention_out, softmax_max, softmax_sum, *tensors = ctx.saved_tensors
        rest = iter(tensors)
        attributes = [next(rest) if tensor else a for tensor, a in zip(ctx.is_tensor, ctx.values, strict=True)]
        dq, dk, dv, dpse, dsink, dq_rope, dk_rope = _BACKWARD(
            query, key, value, dy, softmax_max, softmax_sum, None, attention_out, *attributes, needs_dpse=ctx.needs_dpse
        )
        others[_PSE] = dpse if ctx.needs_dpse else None
        others[_SINK] = dsink if ctx.needs_dsink else None
        if ctx.is_tensor[_QUERY_ROPE]:
            others[_QUERY_ROPE], others[_KEY_ROPE] = dq_rope, dk_rope
    return dq, dk, dv, *others


torch.library.register_autograd("ascendspeed::flash_attention_score", _backward, setup_context=_save)


def _no_second_derivative(ctx: Any, *_: Any) -> tuple:
    raise NotImplementedError("flash_attention_score_grad has no gradient of its own: second derivatives are not built")


torch.library.register_autograd("ascendspeed::flash_attention_score_grad", _no_second_derivative)
