"""What scripts written for CUDA call, on the CPU and, by a recorder in place of torch.npu, on the NPU."""

import functools
import types

import pytest
import torch
from torch.distributed import ReduceOp

from ascendspeed.device import Device, cuda_shim
from ascendspeed.device.cuda_scripts import SCRIPT_ROWS, _collectives, _reduced_exactly, _swap_order


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


FACTORIES = {
    "arange": (3,),
    "as_tensor": ([1.0],),
    "empty": (2,),
    "empty_strided": ((2,), (1,)),
    "eye": (2,),
    "full": ((2,), 1.0),
    "linspace": (0, 1, 3),
    "logspace": (0, 1, 3),
    "rand": (2,),
    "randint": (9, (2,)),
    "randn": (2,),
    "randperm": (3,),
    "tril_indices": (2, 2),
    "triu_indices": (2, 2),
    "empty_like": (torch.ones(1),),
    "full_like": (torch.ones(1), 2.0),
    "ones_like": (torch.ones(1),),
    "rand_like": (torch.ones(1),),
    "randint_like": (torch.ones(1), 9),
    "randn_like": (torch.ones(1),),
    "zeros_like": (torch.ones(1),),
    "Tensor.new_empty": (torch.ones(1), (2,)),
    "Tensor.new_full": (torch.ones(1), (2,), 2.0),
    "Tensor.new_ones": (torch.ones(1), (2,)),
    "Tensor.new_tensor": (torch.ones(1), [1.0]),
    "Tensor.new_zeros": (torch.ones(1), (2,)),
}


def test_a_tensor_made_on_cuda_is_on_the_device(on_npu):
    redirected = {row.target for row in SCRIPT_ROWS if row.reason == 'device="cuda"'}
    assert redirected == {f"torch:{name}" for name in FACTORIES}
    for name, arguments in FACTORIES.items():
        make = functools.reduce(getattr, name.split("."), torch)
        for device in ("cuda", "cuda:0", torch.device("cuda", 1), 0):
            assert make(*arguments, device=device).device.type == "meta", name
        assert make(*arguments, device="cpu").device.type == "cpu", name


def test_what_moves_to_cuda_moves_to_the_device(on_npu):
    for device in ("cuda", "cuda:0", torch.device("cuda", 1), 0):
        assert torch.ones(1).to(device).device.type == "meta"
        assert torch.ones(1).to(device=device, dtype=torch.float64).device.type == "meta"
        assert torch.ones(1).cuda(device).device.type == "meta"
        assert torch.nn.Linear(1, 1).to(device).weight.device.type == "meta"
        assert torch.nn.Linear(1, 1).cuda(device).weight.device.type == "meta"
    assert torch.ones(1).to("cpu", torch.float64, False, True).device.type == "cpu"


def test_the_cpu_pins_nothing(on_cpu):
    tensor = torch.ones(1)
    assert tensor.pin_memory() is tensor
    assert tensor.to(1).device.type == "cpu"


def test_the_order_of_integers_is_that_of_floats():
    huge, tiny = torch.finfo(torch.float64).max, torch.finfo(torch.float64).smallest_normal
    inf, least = float("inf"), tiny * torch.finfo(torch.float64).eps  # subnormal
    numbers = [-inf, -huge, -1.5, -1.0, -tiny, -least, -0.0, 0.0, least, tiny, 1.0, 1.5, huge, inf, float("nan")]
    rising = torch.tensor(numbers, dtype=torch.float64)
    ordered = _swap_order(rising.view(torch.int64))
    assert (ordered.diff() > 0).all()  # -0.0 below 0.0, NaN above everything
    assert torch.equal(_swap_order(ordered), rising.view(torch.int64)), "and back, bit for bit"
    drawn = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(_swap_order(drawn.view(torch.int64)).argsort(), drawn.argsort())


class _OnNpu:
    """What all_reduce asks of a tensor, of one that is on an NPU."""

    device = types.SimpleNamespace(type="npu")

    def __init__(self, tensor):
        self.tensor, self.dtype = tensor, tensor.dtype

    def cpu(self):
        return self.tensor.clone()

    def copy_(self, other):
        self.tensor.copy_(other)


@pytest.mark.parametrize(("op", "reduced"), [(ReduceOp.MIN, torch.minimum), (ReduceOp.MAX, torch.maximum)])
def test_the_smallest_and_the_largest_of_float64_are_found_by_integers(monkeypatch, op, reduced):
    mine = torch.tensor([1e300, -1.0, -0.5, float("inf")], dtype=torch.float64)
    others = torch.tensor([-2.5, -3.0, 0.5, -float("inf")], dtype=torch.float64)
    expected, seen = reduced(mine, others), []

    def all_reduce(tensor, op, group=None, async_op=False):
        tensor.copy_(reduced(tensor, _swap_order(others.view(torch.int64))))
        seen.append((tensor.dtype, op, group))
        return "work" if async_op else None

    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)  # there is no NPU
    exactly = _reduced_exactly(Device("npu"), all_reduce)
    exactly(_OnNpu(mine), op, group="group")
    assert torch.equal(mine, expected)
    with pytest.raises(NotImplementedError, match="all_reduce of float64 with async_op=True"):
        exactly(_OnNpu(mine), op, async_op=True)
    assert seen == [(torch.int64, op, "group"), (torch.int64, op, None)]


def test_all_else_is_reduced_as_ever():
    calls = []
    exactly = _reduced_exactly(Device("npu"), lambda *args, **kwargs: calls.append((*args, kwargs)))
    single, double = _OnNpu(torch.ones(1)), _OnNpu(torch.ones(1, dtype=torch.float64))
    exactly(single, ReduceOp.MAX, async_op=True)
    exactly(double, ReduceOp.SUM)  # and is refused by hccl
    exactly(on_cpu := torch.ones(1, dtype=torch.float64), op=ReduceOp.MIN)
    assert calls == [
        (single, ReduceOp.MAX, {"async_op": True}),
        (double, ReduceOp.SUM, {}),
        (on_cpu, ReduceOp.MIN, {}),
    ]


@pytest.mark.parametrize(("name", "backend"), [("cpu", "gloo"), ("npu", "hccl")])
def test_nccl_is_the_backend_of_the_device(monkeypatch, name, backend):
    calls = []
    if name == "npu":
        monkeypatch.setattr(Device, "torch_device", lambda self, index: torch.device("meta", index))
    make_group = _collectives(Device(name), lambda *args, **kwargs: calls.append((args, kwargs)))
    cards = [None, None] if name == "cpu" else [torch.device("meta", 1)] * 2
    make_group("nccl", device_id=1)
    make_group(backend="nccl", device_id=torch.device("cuda", 1))
    make_group([0, 1], backend="gloo", device_id=torch.device("cpu"))
    make_group(None)
    assert calls == [
        ((backend,), {"device_id": cards[0]}),
        ((), {"backend": backend, "device_id": cards[1]}),
        (([0, 1],), {"backend": "gloo", "device_id": torch.device("cpu")}),
        ((None,), {}),
    ]


def test_properties_of_a_card(on_npu):
    assert vars(torch.cuda.get_device_properties("cuda")) == {
        "name": "Ascend on meta:1",
        "major": 0,
        "minor": 0,
        "total_memory": 7,
    }
    assert torch.cuda.get_device_capability() == (0, 0)
    assert torch.cuda.device_count() == 2
    assert torch.cuda.is_available()


def test_properties_of_the_cpu(on_cpu, monkeypatch):
    properties = torch.cuda.get_device_properties(0)
    assert (properties.name, properties.major, properties.minor) == ("cpu", 0, 0)
    assert properties.total_memory > 2**20
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert torch.cuda.device_count() == 3
