"""The operator's functions on DEVICE for tests whose tensors are on the CPU, where they are drawn and compared.

They take the tensors they are given to DEVICE with the strides they have, and bring results and gradients back. Where
DEVICE is the CPU they are the functions of ascendspeed.ops themselves. Tests of what torch does around a call (a trace,
a checkpoint, a change in place) put their tensors there with `to_device` and call ascendspeed.ops.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ascendspeed import ops
from tests.support.device import DEVICE

T = TypeVar("T")


def to_device(tree: T) -> T:
    """Every tensor of the CPU in nested lists, tuples and dicts, on DEVICE."""
    if DEVICE == "cpu":
        return tree
    return tree_map_only(Tensor, lambda t: _Moved.apply(t, DEVICE) if t.device.type == "cpu" else t, tree)


def rng_state() -> Tensor:
    """Of the generator on DEVICE."""
    return (torch if DEVICE == "cpu" else torch.get_device_module(DEVICE)).get_rng_state()


def has_dpse(pse: str | None, pse_type: int) -> bool:
    """Whether a call gives pse a gradient. Slopes have none, and on an NPU no pse has: CANN does not say what its
    backward leaves there."""
    return pse is not None and pse_type in (0, 1) and DEVICE != "npu"


def opcheck(op: torch._ops.OpOverload, arguments: tuple, attributes: dict[str, Any] | None = None) -> None:
    """torch.library.opcheck, on another device than the CPU without its check that autograd is registered for the
    device, which knows a few devices only."""
    checks = {"test_utils": ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")} if DEVICE != "cpu" else {}
    torch.library.opcheck(op, to_device(arguments), to_device(attributes), **checks)


class _Moved(torch.autograd.Function):
    """A tensor on another device, and its gradient back on its own.

    The strides are the same, gaps and shared elements included: what lies between the elements is moved with them.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, device: str) -> Tensor:
        ctx.device = tensor.device
        numel = tensor.untyped_storage().nbytes() // tensor.element_size()
        whole = tensor.as_strided((numel,), (1,), 0).to(device)
        return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Moved.apply(gradient, ctx.device), None


def _to_cpu(result: Tensor) -> Tensor:
    if result.device.type == "meta":
        return result
    assert result.device.type == DEVICE, f"a result on {result.device}"
    return _Moved.apply(result, "cpu")


def _on_device(function: Callable[..., T]) -> Callable[..., T]:
    if DEVICE == "cpu":
        return function

    @functools.wraps(function)
    def moved(*arguments: Any, **attributes: Any) -> T:
        arguments, attributes = to_device((arguments, attributes))
        return tree_map_only(Tensor, _to_cpu, function(*arguments, **attributes))

    return moved


flash_attention_score = _on_device(ops.flash_attention_score)
flash_attention_score_grad = _on_device(torch.ops.ascendspeed.flash_attention_score_grad.default)
dropout_gen_mask = _on_device(ops.dropout_gen_mask)
npu_flash_attention = _on_device(ops.npu_flash_attention)
npu_flash_attention_grad = _on_device(ops.npu_flash_attention_grad)
npu_fusion_attention = _on_device(ops.npu_fusion_attention)
npu_fusion_attention_grad = _on_device(ops.npu_fusion_attention_grad)
npu_fusion_attention_v2 = _on_device(ops.npu_fusion_attention_v2)
npu_fusion_attention_grad_v2 = _on_device(ops.npu_fusion_attention_grad_v2)
npu_dropout_gen_mask = _on_device(ops._npu_dropout_gen_mask)
npu_ring_attention_update = _on_device(ops.npu_ring_attention_update)
