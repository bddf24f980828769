"""DeepSpeed itself, loaded when it is used and not before; a version this was not tested with is refused."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from ascendspeed import device as devices

__all__ = ["load"]

_SERIES = "0.19."


def load(module: str = "") -> Any:
    """`deepspeed`, or its submodule of that name.

    Raises:
        ImportError: DeepSpeed is not installed, or is not of the tested series; the message says what to install.
        RuntimeError: DeepSpeed has chosen another device than `ascendspeed.device.current()`.
    """
    remedy = "install it with: pip install 'ascendspeed[deepspeed]'"
    try:
        found = version("deepspeed")
    except PackageNotFoundError:
        raise ImportError(f"DeepSpeed is not installed; {remedy}") from None
    if not found.startswith(_SERIES):
        raise ImportError(f"DeepSpeed {found} is installed, but {_SERIES}x is needed; {remedy}")
    here = devices.current().name
    os.environ.setdefault("DS_ACCELERATOR", here)  # else it takes the best there is
    chosen = importlib.import_module("deepspeed.accelerator").get_accelerator().device_name()
    if chosen != here:
        raise RuntimeError(f"DeepSpeed's accelerator is {chosen}, but the device is {here}; unset DS_ACCELERATOR")
    name = f"deepspeed.{module}" if module else "deepspeed"
    loaded: ModuleType = importlib.import_module(name)
    return loaded
