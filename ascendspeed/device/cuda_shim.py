"""What megatron-core 0.16.1 takes for granted about CUDA, answered by the chosen device. One table, nothing elsewhere.

megatron-core says ``torch.cuda`` and ``device="cuda"`` without asking. Every row of :data:`ROWS` replaces one attribute
and names the Megatron call that cannot do without it; a test runs Megatron on the device and fails for a row of the
device's that nobody used.
Where Megatron has a seam (a config field, a layer spec, a process group) that is used instead and there is no row.
:func:`install` applies the table, :func:`uninstall` puts every original back. On CUDA there is nothing to do.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ascendspeed.device import Device

__all__ = ["ROWS", "Row", "install", "installed_for", "rows_of", "uninstall"]

MEGATRON_VERSIONS = ">=0.16,<0.17"  # what the rows were read against


@dataclass(frozen=True)
class Row:
    """One attribute that is replaced while the shim is installed.

    target: "module:attribute", the attribute that is replaced; a dotted attribute reaches into a class.
    needed_by: "module:function" of megatron-core that calls it.
    reason: why Megatron's own answer does not do; shown in docs/megatron.md.
    make: (device, original) -> replacement.
    on: the devices that need it.
    """

    target: str
    needed_by: str
    reason: str
    make: Callable[[Device, Any], Any]
    on: tuple[str, ...] = ("cpu", "npu")

    def owner(self) -> tuple[Any, str]:
        """The object that holds the attribute, and the attribute's name. AttributeError if it has moved."""
        module, _, path = self.target.partition(":")
        *parents, name = path.split(".")
        owner = functools.reduce(getattr, parents, importlib.import_module(module))
        if not hasattr(owner, name):
            raise AttributeError(
                f"{self.target} does not exist; the shim was written for megatron-core {MEGATRON_VERSIONS}"
            )
        return owner, name


def _redirected(device: Device, factory: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A tensor factory for which device="cuda" means the chosen device. Any other device is left alone."""

    @functools.wraps(factory)
    def redirected(*args: Any, **kwargs: Any) -> Tensor:
        if str(kwargs.get("device")).partition(":")[0] == "cuda":
            kwargs["device"] = device.current_device()
        return factory(*args, **kwargs)

    return redirected


def _to_device(device: Device, _: Any) -> Callable[..., Tensor]:
    """Tensor.cuda() that moves to the chosen device."""

    def cuda(self: Tensor, *_: Any, **__: Any) -> Tensor:
        return self if self.is_meta else self.to(device.current_device())

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
        lambda device, _: lambda *_: device.get_rng_state(),
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
        _redirected,
    ),
    Row(
        "torch:tensor",
        "megatron.core.optimizer.optimizer:FP32Optimizer.__init__",
        'keeps its loss scale in a tensor made with device="cuda"',
        _redirected,
    ),
    Row(
        "torch:ones",
        "megatron.core.transformer.utils:get_default_causal_mask",
        'DotProductAttention makes its causal mask with device="cuda"',
        _redirected,
    ),
    Row(
        "torch:Tensor.cuda",
        "megatron.core.models.common.language_module.language_module:LanguageModule.setup_embeddings_and_output_layer",
        "moves the tied embedding of the first and the last pipeline stage with .cuda()",
        _to_device,
    ),
    Row(
        "torch:Tensor.type",
        "megatron.core.optimizer.optimizer:Float16OptimizerWithFloat16Params.__init__",
        "optimizers sort parameters by the name torch.cuda.*Tensor and refuse every other",
        _type_as_cuda,
    ),
)

_originals: dict[Row, Any] = {}
_installed_for: Device | None = None


def rows_of(device: Device) -> tuple[Row, ...]:
    """The rows that are installed for `device`; none for CUDA."""
    return tuple(row for row in ROWS if device.name in row.on)


def installed_for() -> Device | None:
    """The device the shim is installed for, None when it is not installed."""
    return _installed_for


def install(device: Device) -> None:
    """Make megatron-core run on `device`. Again for the same device does nothing.

    Raises:
        RuntimeError: it is installed for another device.
        AttributeError: a row's target does not exist in this megatron-core; nothing is replaced then.
    """
    global _installed_for
    if _installed_for == device:
        return
    if _installed_for is not None:
        raise RuntimeError(f"the shim is installed for {_installed_for.name!r}; uninstall() it before {device.name!r}")
    owners = [(row, *row.owner()) for row in rows_of(device)]  # all of them before the first is replaced
    for row, owner, name in owners:
        _originals[row] = getattr(owner, name)
        setattr(owner, name, row.make(device, _originals[row]))
    _installed_for = device


def uninstall() -> None:
    """Put every original back. Does nothing when nothing is installed."""
    global _installed_for
    for row, original in _originals.items():
        owner, name = row.owner()
        setattr(owner, name, original)
    _originals.clear()
    _installed_for = None
