"""The device object: selection, refusal instead of a silent CPU, and that its answers reach the right runtime."""

import sys
import types

import pytest
import torch

from ascendspeed import device as devices
from ascendspeed.device import Device


@pytest.fixture(autouse=True)
def _nothing_selected(monkeypatch):
    monkeypatch.setattr(devices, "_selected", None)


def without_accelerators(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)


def with_npu(monkeypatch, **functions):
    """A torch.npu that records its calls, as torch_npu would install it."""
    calls = []

    def record(name, answer):
        return lambda *args: calls.append((name, *args)) or answer

    answers = {"is_available": True, "current_device": 3, "max_memory_allocated": 7} | functions
    names = ("set_device", "synchronize", "manual_seed", "get_rng_state", "set_rng_state", *answers)
    npu = types.SimpleNamespace(**{name: record(name, answers.get(name)) for name in names})
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.setitem(sys.modules, "torch_npu", types.ModuleType("torch_npu"))
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: object())
    return calls


@pytest.mark.parametrize(("name", "backend"), [("cpu", "gloo"), ("npu", "hccl"), ("cuda", "nccl")])
def test_each_device_has_its_collective_backend(name, backend):
    assert Device(name).collective_backend == backend


def test_processes_share_the_cpu_and_have_a_card_each():
    assert Device("cpu").torch_device(1) == torch.device("cpu")
    assert Device("cuda").torch_device(1) == torch.device("cuda", 1)


def test_the_default_is_the_cpu_where_nothing_else_is(monkeypatch):
    without_accelerators(monkeypatch)
    assert devices.select().name == "cpu"
    assert devices.current().name == "cpu"


def test_the_npu_comes_first(monkeypatch):
    with_npu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.current().name == "npu"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="device 'tpu' is not one of cpu, npu, cuda"):
        devices.select("tpu")


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    without_accelerators(monkeypatch)
    for name in ("npu", "cuda"):
        with pytest.raises(RuntimeError, match=f"device '{name}' was asked for, but this machine has none"):
            devices.select(name)


def test_a_broken_torch_npu_is_an_error_and_not_the_cpu(monkeypatch):
    def broken(name):
        raise ImportError("libascendcl.so: cannot open shared object file")

    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(devices.importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match=r"torch_npu is installed but does not load .*libascendcl"):
        devices.select()


def test_the_cpu_answers_for_itself():
    cpu = Device("cpu")
    cpu.set(1)
    cpu.synchronize()
    assert cpu.current_device() == torch.device("cpu")
    before = cpu.max_memory_allocated()
    block = torch.ones(32 * 2**20)  # 128 MiB
    assert cpu.max_memory_allocated() - before > 64 * 2**20
    assert block[0] == 1


def test_the_cpus_generator_is_torchs():
    state = torch.get_rng_state()
    try:
        cpu = Device("cpu")
        cpu.manual_seed(11)
        saved = cpu.get_rng_state()
        first = torch.rand(3)
        cpu.set_rng_state(saved)
        assert torch.equal(first, torch.rand(3))
    finally:
        torch.set_rng_state(state)


def test_a_card_is_asked_through_its_runtime(monkeypatch):
    calls = with_npu(monkeypatch)
    npu = devices.select("npu")
    npu.set(3)
    npu.synchronize()
    npu.manual_seed(5)
    npu.get_rng_state()
    npu.set_rng_state("state")
    assert npu.max_memory_allocated() == 7
    asked = [call for call in calls if call[0] != "is_available"]
    assert asked == [
        ("set_device", 3),
        ("synchronize",),
        ("manual_seed", 5),
        ("get_rng_state",),
        ("set_rng_state", "state"),
        ("max_memory_allocated",),
    ]
