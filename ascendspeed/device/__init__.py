"""The device a run trains on: one small object that knows its runtime, its memory and its collective backend.

It knows torch only. How megatron-core is made to run on the device is :mod:`ascendspeed.device.cuda_shim`'s business.
"""

from __future__ import annotations

import importlib
import importlib.util
import resource
import sys
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

__all__ = ["DEVICE_NAMES", "Device", "current", "select"]

_COLLECTIVE_BACKENDS = {"cpu": "gloo", "npu": "hccl", "cuda": "nccl"}
DEVICE_NAMES = tuple(_COLLECTIVE_BACKENDS)


@dataclass(frozen=True)
class Device:
    """One kind of device: "cpu", "npu" or "cuda". Obtain it from :func:`select` or :func:`current`."""

    name: str

    @property
    def collective_backend(self) -> str:
        """The torch.distributed backend that goes with it: gloo, hccl or nccl."""
        return _COLLECTIVE_BACKENDS[self.name]

    @property
    def _runtime(self) -> ModuleType:
        """torch.npu or torch.cuda. The CPU has no such module; its methods answer before they ask for it."""
        runtime: ModuleType = getattr(torch, self.name)
        return runtime

    def torch_device(self, local_rank: int = 0) -> torch.device:
        """The torch.device of this process; all processes of a machine share the one CPU."""
        return torch.device("cpu") if self.name == "cpu" else torch.device(self.name, local_rank)

    def count(self) -> int | None:
        """How many there are on this machine; None for the CPU, which any number of processes share."""
        return None if self.name == "cpu" else int(self._runtime.device_count())

    def set(self, local_rank: int) -> None:
        """Make card `local_rank` the current one of this process."""
        if self.name != "cpu":
            self._runtime.set_device(local_rank)

    def current_device(self) -> torch.device:
        """The torch.device that :meth:`set` chose."""
        return torch.device("cpu") if self.name == "cpu" else torch.device(self.name, self._runtime.current_device())

    def synchronize(self) -> None:
        """Wait until the device has finished what was queued. The CPU queues nothing."""
        if self.name != "cpu":
            self._runtime.synchronize()

    def max_memory_allocated(self) -> int:
        """Peak memory in bytes: what torch allocated on a card; on the CPU the peak resident size of the process."""
        if self.name != "cpu":
            return int(self._runtime.max_memory_allocated())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB

    def manual_seed(self, seed: int) -> None:
        """Seed the generator the device draws from."""
        if self.name == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            self._runtime.manual_seed(seed)

    def get_rng_state(self) -> Tensor:
        """State of the generator the device draws from: a uint8 tensor on the CPU."""
        state: Tensor = torch.get_rng_state() if self.name == "cpu" else self._runtime.get_rng_state()
        return state

    def set_rng_state(self, state: Tensor) -> None:
        """Continue from a state that :meth:`get_rng_state` returned."""
        if self.name == "cpu":
            torch.set_rng_state(state)
        else:
            self._runtime.set_rng_state(state)


_selected: Device | None = None


def select(name: str | None = None) -> Device:
    """Choose the device of this process; :func:`current` returns it from now on.

    Args:
        name: "cpu", "npu" or "cuda". None takes the best there is: npu, then cuda, then cpu.

    Raises:
        ValueError: the name is none of the three.
        RuntimeError: the device is not there, or torch_npu is installed but does not load. A run never falls back
            to the CPU because an accelerator is broken; it has to be asked for.
    """
    global _selected
    if name is not None and name not in DEVICE_NAMES:
        raise ValueError(f"device {name!r} is not one of {', '.join(DEVICE_NAMES)}")
    if name is None:
        name = next((candidate for candidate in ("npu", "cuda") if _is_available(candidate)), "cpu")
    elif name != "cpu" and not _is_available(name):
        raise RuntimeError(f"device {name!r} was asked for, but this machine has none; the CPU is device 'cpu'")
    _selected = Device(name)
    return _selected


def current() -> Device:
    """The device :func:`select` chose; the first call without one selects the default."""
    return _selected if _selected is not None else select()


def _is_available(name: str) -> bool:
    if name == "cuda":
        return torch.cuda.is_available()
    if importlib.util.find_spec("torch_npu") is None:
        return False
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError) as error:  # OSError: a shared library of CANN is missing
        raise RuntimeError(
            f"torch_npu is installed but does not load ({error}); device 'cpu' trains on the CPU"
        ) from error
    return bool(Device("npu")._runtime.is_available())
