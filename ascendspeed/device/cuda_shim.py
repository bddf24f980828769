"""What megatron-core takes for granted about CUDA, answered by the chosen device: a table.

megatron-core says ``torch.cuda`` and ``device="cuda"`` without asking. Every row of :data:`ROWS` replaces one attribute
and names the Megatron call that cannot do without it; a test runs Megatron on the device and fails for a row of the
device's that nobody used. What scripts say besides stands in :mod:`ascendspeed.device.cuda_scripts`.
Where Megatron has a seam (a config field, a layer spec, a process group) that is used instead and there is no row.
:func:`install` applies the table, :func:`uninstall` puts every original back. On CUDA there is nothing to do.
"""

from __future__ import annotations

import functools
import logging
import sys
import types
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ascendspeed.device import Device
from ascendspeed.device.replace import Replacements, has, locate

__all__ = [
    "MEGATRON_VERSIONS",
    "ROWS",
    "Row",
    "install",
    "installed_for",
    "is_cuda",
    "meant",
    "moved",
    "own_card",
    "redirected_factory",
    "rows_of",
    "uninstall",
]

MEGATRON_VERSIONS = ">=0.12,<0.17"  # what the rows were read against


@dataclass(frozen=True)
class Row:
    """One attribute that is replaced while the shim is installed.

    target: "module:attribute", the attribute that is replaced; a dotted attribute reaches into a class.
    needed_by: "module:function" of megatron-core that calls it; of cuda_scripts.py also Megatron-LM's, or "a script".
    reason: why Megatron's own answer does not do; shown in docs/megatron.md.
    make: (device, original) -> replacement.
    on: the devices that need it.
    part_of: a package that may be missing, and with it the target; the row is left out then.
    """

    target: str
    needed_by: str
    reason: str
    make: Callable[[Device, Any], Any]
    on: tuple[str, ...] = ("cpu", "npu")
    part_of: str | None = None

    def owner(self) -> tuple[Any, str]:
        """The object that holds the attribute, and the attribute's name. AttributeError if it has moved."""
        try:
            return locate(self.target)
        except AttributeError as error:
            raise AttributeError(
                f"{self.target} does not exist; the shim was written for megatron-core {MEGATRON_VERSIONS}"
            ) from error


def is_cuda(value: Any) -> TypeGuard[str | torch.device | int]:
    """Whether a device argument says CUDA: "cuda", "cuda:1", a torch.device of that type, or the number of a card."""
    if isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, str | torch.device) and str(value).partition(":")[0] == "cuda"


def meant(device: Device, value: str | torch.device | int) -> torch.device:
    """The device that is meant by a CUDA device: the same card, or the current one."""
    index = value if isinstance(value, int) else torch.device(value).index
    return device.current_device() if index is None else device.torch_device(index)


def redirected_factory(device: Device, factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A tensor factory for which device="cuda" means the chosen device. Any other device is left alone."""

    @functools.wraps(factory)
    def redirected(*args: Any, **kwargs: Any) -> Tensor:
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = meant(device, kwargs["device"])
        return factory(*args, **kwargs)

    return redirected


def moved(chosen: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Tensor.cuda and Module.cuda, with a number, a device or nothing. A meta tensor holds nothing and stays one."""

    @functools.wraps(original)
    def cuda(self: Any, device: Any = None, non_blocking: bool = False, **_: Any) -> Any:
        if getattr(self, "is_meta", False):
            return self
        where = "cuda" if device is None else device
        return self.to(meant(chosen, where) if is_cuda(where) else where, non_blocking=non_blocking)

    return cuda


def _type_as_cuda(device: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """Tensor.type() that tells Megatron, and nobody else, torch.cuda.FloatTensor for a tensor on the chosen device."""

    @functools.wraps(original)
    def type_(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        asked_by = sys._getframe(1).f_globals.get("__name__", "")
        if args or kwargs or self.device.type != device.name or not asked_by.startswith("megatron."):
            return answer
        return "torch.cuda." + answer.rpartition(".")[2]

    return type_


def own_card(device: Device, card: Any) -> None:
    """NotImplementedError if `card`, as torch.cuda takes it, is not the one of this process."""
    if card is not None and meant(device, card) != device.current_device():
        raise NotImplementedError(f"device={card!r} is not the card of this process, {device.current_device()}")


def _rng_state(device: Device, _: Any) -> Callable[..., Tensor]:
    def get_rng_state(device_: Any = None, **named: Any) -> Tensor:
        own_card(device, named.get("device", device_))
        return device.get_rng_state()

    return get_rng_state


def _without_rng_alarm(*_: Any) -> Any:
    """The module `logging`, as far as a module uses it that has one warning to give and gives it falsely."""
    silent = logging.Logger("megatron.core.tensor_parallel.random")
    silent.disabled = True
    return types.SimpleNamespace(getLogger=lambda _: silent)


ROWS: tuple[Row, ...] = (
    Row(
        "torch.cuda:current_device",
        "megatron.core.tensor_parallel.layers:ColumnParallelLinear.__init__",
        "every weight, buffer and collective of Megatron is placed on torch.cuda.current_device()",
        lambda device, _: device.current_device,
    ),
    Row(
        "torch.cuda:manual_seed",
        "megatron.core.tensor_parallel.random:CudaRNGStatesTracker.add",
        "seeds the generator of the device; without CUDA the call would only be queued",
        lambda device, _: device.manual_seed,
    ),
    Row(
        "torch.cuda:get_rng_state",
        "megatron.core.tensor_parallel.random:CudaRNGStatesTracker.add",
        "reads the generator of the device",
        _rng_state,
    ),
    Row(
        "megatron.core.tensor_parallel.random:_get_cuda_rng_state",
        "megatron.core.tensor_parallel.random:CudaRNGStatesTracker.fork",
        "as above, by torch.cuda.random and a device that defaults to cuda",
        lambda device, _: lambda *_, **__: device.get_rng_state(),
    ),
    Row(
        "megatron.core.tensor_parallel.random:_set_cuda_rng_state",
        "megatron.core.tensor_parallel.random:CudaRNGStatesTracker.fork",
        "sets torch.cuda.default_generators through a queue that is never run without CUDA",
        lambda device, _: lambda state, *_, **__: device.set_rng_state(state),
    ),
    Row(
        "megatron.core.tensor_parallel.random:logging",
        "megatron.core.tensor_parallel.random:CudaRNGStatesTracker.fork",
        "warns at every fork that the CPU's generator moved, which on the CPU is the device's generator at work",
        _without_rng_alarm,
        on=("cpu",),
    ),
    Row(
        "torch.cuda:synchronize",
        "megatron.core.dist_checkpointing.strategies.filesystem_async:FileSystemWriterAsync.preload_tensors",
        "waits for the device before tensors are written",
        lambda device, _: lambda *_, **__: device.synchronize(),
    ),
    Row(
        "torch:zeros",
        "megatron.core.pipeline_parallel.schedules:forward_backward_no_pipelining",
        'counts tokens in a tensor made with device="cuda"',
        redirected_factory,
    ),
    Row(
        "torch:tensor",
        "megatron.core.optimizer.optimizer:FP32Optimizer.__init__",
        'keeps its loss scale in a tensor made with device="cuda"',
        redirected_factory,
    ),
    Row(
        "torch:ones",
        "megatron.core.transformer.utils:get_default_causal_mask",
        'DotProductAttention makes its causal mask with device="cuda"',
        redirected_factory,
    ),
    Row(
        "torch:Tensor.cuda",
        "megatron.core.models.common.language_module.language_module:LanguageModule.setup_embeddings_and_output_layer",
        "moves the tied embedding of the first and the last pipeline stage with .cuda()",
        moved,
    ),
    Row(
        "torch:Tensor.type",
        "megatron.core.optimizer.optimizer:Float16OptimizerWithFloat16Params.__init__",
        "optimizers sort parameters by the name torch.cuda.*Tensor and refuse every other",
        _type_as_cuda,
    ),
)

_replaced = Replacements()
_installed_for: Device | None = None


def rows_of(device: Device, rows: Sequence[Row] = ROWS) -> tuple[Row, ...]:
    """The rows that are installed for `device`; none for CUDA."""
    return tuple(row for row in rows if device.name in row.on and (row.part_of is None or has(row.part_of)))


def installed_for() -> Device | None:
    """The device the shim is installed for, None when it is not installed."""
    return _installed_for


def install(device: Device, more: Sequence[Row] = ()) -> tuple[str, ...]:
    """Make megatron-core run on `device`. Again for the same device does nothing.

    Args:
        more: further rows than :data:`ROWS`; they are added to what is installed already.

    Returns:
        The targets that this call has replaced, for :func:`uninstall`.

    Raises:
        RuntimeError: it is installed for another device.
        AttributeError: a row's target does not exist in this megatron-core; nothing is replaced then.
    """
    global _installed_for
    if _installed_for not in {None, device}:
        raise RuntimeError(f"the shim is installed for {_installed_for.name!r}; uninstall() it before {device.name!r}")
    missing = [row for row in rows_of(device, (*ROWS, *more)) if row.target not in _replaced]
    for row in missing:  # all of them before the first is replaced
        row.owner()
    for row in missing:
        _replaced.replace(row.target, functools.partial(row.make, device))
    _installed_for = device
    return tuple(row.target for row in missing)


def uninstall(targets: Collection[str] | None = None) -> None:
    """Put every original back, or those of `targets`. What is not replaced is left alone."""
    global _installed_for
    if targets is None:
        _replaced.restore()
    elif targets:
        _replaced.restore(*targets)
    if not _replaced:
        _installed_for = None
