"""DeepSpeed is loaded late, and in no version that was not tried."""

import importlib.metadata

import pytest

from ascendspeed.integrations.deepspeed import library


def test_without_it_the_error_says_what_to_install(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(library, "version", missing)
    with pytest.raises(ImportError, match=r"DeepSpeed is not installed; .* pip install 'ascendspeed\[deepspeed\]'"):
        library.load()


@pytest.mark.parametrize("found", ["0.18.9", "0.20.0", "0.190.0"])
def test_another_series_is_refused(monkeypatch, found):
    monkeypatch.setattr(library, "version", lambda name: found)
    with pytest.raises(ImportError, match=rf"DeepSpeed {found} is installed, but 0\.19\.x is needed"):
        library.load()


def test_an_accelerator_of_another_device_is_refused(monkeypatch):
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed: bash scripts/setup.sh train test deepspeed")
    accelerator = pytest.importorskip("deepspeed.accelerator.real_accelerator")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(accelerator, "ds_accelerator", None)
    monkeypatch.setattr(library.devices, "current", lambda: library.devices.Device("npu"))
    with pytest.raises(
        RuntimeError, match="DeepSpeed's accelerator is cpu, but the device is npu; unset DS_ACCELERATOR"
    ):
        library.load()
