"""The device whose kernels the tests run: ASCENDSPEED_TEST_DEVICE, by default npu where torch_npu is, else the CPU."""

import importlib.util
import os

import pytest

from ascendspeed.device import DEVICE_NAMES, Device

_DEFAULT = "cpu" if importlib.util.find_spec("torch_npu") is None else "npu"
DEVICE = os.environ.get("ASCENDSPEED_TEST_DEVICE", _DEFAULT)
if DEVICE not in DEVICE_NAMES:
    raise ValueError(f"ASCENDSPEED_TEST_DEVICE={DEVICE} is not one of {', '.join(DEVICE_NAMES)}")

BACKEND = Device(DEVICE).collective_backend  # of torch.distributed


def cpu_only(reason: str) -> pytest.MarkDecorator:
    """For a test of something that the CPU's kernels alone promise; `reason` says what that is."""
    return pytest.mark.skipif(DEVICE != "cpu", reason=f"of the CPU's kernels alone: {reason}")
