"""What scripts written for CUDA call, on the CPU and, by a recorder in place of torch.npu, on the NPU."""

import types

import pytest
import torch

from ascendspeed.device import Device, cuda_shim
from ascendspeed.device.cuda_scripts import SCRIPT_ROWS


@pytest.fixture
def on_cpu():
    cuda_shim.install(Device("cpu"), SCRIPT_ROWS)
    yield
    cuda_shim.uninstall()


@pytest.fixture
def on_npu(monkeypatch):
    """The calls that reach torch.npu, while the shim is installed for it."""
    calls = []
    names = [row.target.rpartition(":")[2] for row in SCRIPT_ROWS if row.target.startswith("torch.cuda:")]
    npu = types.SimpleNamespace(
        **{name: lambda *args, name=name: calls.append((name, *args)) for name in [*names, "get_rng_state"]}
    )
    npu.current_device = lambda: 1
    npu.device_count = lambda: 2
    npu.get_device_properties = lambda card: types.SimpleNamespace(name=f"Ascend on {card}", total_memory=7)
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    # A device that every torch has.
    monkeypatch.setattr(Device, "torch_device", lambda self, index=0: torch.device("meta", index))
    monkeypatch.setattr(Device, "current_device", lambda self: torch.device("meta", 1))
    cuda_shim.install(Device("npu"), SCRIPT_ROWS)
    yield calls
    cuda_shim.uninstall()


@pytest.mark.parametrize("device", [(), (0,), ("cuda",), (torch.device("cuda", 0),)])
def test_a_generator_goes_on_from_the_state_that_was_read(on_cpu, device):
    state = torch.cuda.get_rng_state(*device)
    drawn = torch.rand(8, device="cuda")
    torch.cuda.set_rng_state(state, *device)
    assert torch.equal(torch.rand(8, device="cuda"), drawn)
    torch.cuda.set_rng_state(torch.cuda.get_rng_state(device="cuda"), device="cuda")
    assert not torch.equal(torch.rand(8, device="cuda"), drawn)


def test_each_process_of_a_node_goes_on_from_its_own_state(on_cpu, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    states = torch.cuda.get_rng_state_all()
    assert len(states) == 2
    drawn = torch.rand(8, device="cuda")
    torch.cuda.set_rng_state_all([torch.cuda.get_rng_state(), states[1]])
    assert torch.equal(torch.rand(8, device="cuda"), drawn)


def test_every_way_to_seed_seeds_the_device(on_cpu):
    torch.cuda.manual_seed_all(7)
    assert torch.cuda.initial_seed() == 7
    drawn = torch.rand(8, device="cuda")
    torch.cuda.manual_seed(7)
    assert torch.equal(torch.rand(8, device="cuda"), drawn)
    for seed in (torch.cuda.seed, torch.cuda.seed_all):
        before = torch.cuda.initial_seed()
        seed()
        assert torch.cuda.initial_seed() != before


def test_generators_of_the_npu(on_npu):
    torch.cuda.get_rng_state("cuda:1")
    torch.cuda.set_rng_state("state", device="cuda")
    torch.cuda.manual_seed_all(7)
    torch.cuda.seed_all()
    assert on_npu == [("get_rng_state",), ("set_rng_state", "state"), ("manual_seed_all", 7), ("seed_all",)]
    for call in (lambda: torch.cuda.get_rng_state(0), lambda: torch.cuda.set_rng_state("state", "cuda:0")):
        with pytest.raises(NotImplementedError, match="is not the card of this process, meta:1"):
            call()
    torch.manual_seed(7)  # torch asks its own
    assert len(on_npu) == 4
