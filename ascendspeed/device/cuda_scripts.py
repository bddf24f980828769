"""What scripts written for CUDA, Megatron-LM's trainer among them, call besides what megatron-core does: a table.

Installed by ascendspeed.megatron_adaptor only: a program of our own asks its device and needs none of it. ``cuda`` is
the chosen device, in whatever way it is written; what the CPU does not have (streams, a compute capability) answers as
torch.cpu does, or with nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from ascendspeed.device import Device
from ascendspeed.device.cuda_shim import Row, is_cuda, meant, moved, own_card, redirected_factory

__all__ = ["SCRIPT_ROWS"]


def _to(device: Device, method: Callable[..., Any]) -> Callable[..., Any]:
    """Tensor.to and Module.to: "cuda" or a card's number among the arguments is the chosen device."""

    @functools.wraps(method)
    def to(self: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(meant(device, each) if is_cuda(each) else each for each in args)
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = meant(device, kwargs["device"])
        return method(self, *args, **kwargs)

    return to


def _not_pinned(tensor: Tensor, device: Any = None) -> Tensor:
    return tensor


def _collectives(device: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """init_process_group and new_group: nccl is the chosen device's backend; device_id is a device of its kind."""

    @functools.wraps(original)
    def of_the_device(*args: Any, **kwargs: Any) -> Any:
        args = tuple(device.collective_backend if each == "nccl" else each for each in args)
        if kwargs.get("backend") == "nccl":
            kwargs["backend"] = device.collective_backend
        card = kwargs.get("device_id")
        if is_cuda(card):
            where = meant(device, card)
            kwargs["device_id"] = None if where.type == "cpu" else where
        return original(*args, **kwargs)

    return of_the_device


def _unless_torch_asks(answer: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch.cuda that answers as `answer` does; torch itself, which would act on it, hears the truth."""

    @functools.wraps(original)
    def told(*args: Any, **kwargs: Any) -> Any:
        asked_by = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
        return (original if asked_by in {"torch", "torch_npu"} else answer)(*args, **kwargs)

    return told


def _count(device: Device) -> int:
    """Cards of this machine; of CPUs there are as many as processes on the node, since each takes "its own"."""
    if device.name == "cpu":
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(_runtime(device).device_count())


def _set_device(device: Device, _: Any) -> Callable[[Any], None]:
    def set_device(card: Any) -> None:
        number = card if isinstance(card, int) else torch.device(card).index
        if number is not None and number >= 0:
            device.set(number)

    return set_device


def _set_rng_state(device: Device, _: Any) -> Callable[..., None]:
    """torch.cuda.set_rng_state, which without CUDA puts the state into a queue that is never run."""

    def set_rng_state(new_state: Tensor, device_: Any = None, **named: Any) -> None:
        own_card(device, named.get("device", device_))
        device.set_rng_state(new_state)

    return set_rng_state


def _set_rng_states_of_cpus(states: Sequence[Tensor]) -> None:
    """Each process of a node takes its own of the states, as it takes "its own" CPU."""
    torch.set_rng_state(states[int(os.environ.get("LOCAL_RANK", "0"))])


def _generators(name: str) -> Callable[[Device, Any], Any]:
    """A function of torch.cuda about generators: torch.npu's of that name, or what it is on a CPU.

    torch.manual_seed calls manual_seed_all too, even in the worker processes of a DataLoader, which have no card.
    """
    generator = torch.default_generator
    of_cpu: dict[str, Callable[[Device], Callable[..., Any]]] = {
        "get_rng_state_all": lambda device: lambda: [torch.get_rng_state() for _ in range(_count(device))],
        "set_rng_state_all": lambda _: _set_rng_states_of_cpus,
        "manual_seed_all": lambda _: generator.manual_seed,
        "seed": lambda _: generator.seed,
        "seed_all": lambda _: generator.seed,
        "initial_seed": lambda _: generator.initial_seed,
    }

    def make(device: Device, original: Any) -> Any:
        answer = of_cpu[name](device) if device.name == "cpu" else getattr(_runtime(device), name)
        return _unless_torch_asks(answer, original)

    return make


def _properties(device: Device, _: Any) -> Callable[..., Any]:
    """Neither a CPU nor an NPU has a compute capability; Megatron compares it with numbers."""

    def properties(*_: Any) -> Any:
        known = _runtime(device).get_device_properties(device.current_device()) if device.name == "npu" else None
        memory = known.total_memory if known is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        name = known.name if known is not None else "cpu"
        return types.SimpleNamespace(name=name, major=0, minor=0, total_memory=memory)

    return properties


def _of_runtime(name: str) -> Callable[[Device, Any], Any]:
    """The function of that name that torch.cpu or torch.npu has."""
    return lambda device, _: getattr(_runtime(device), name)


def _runtime(device: Device) -> Any:
    """torch.cpu or torch.npu."""
    return getattr(torch, device.name)


def _eager(_: Device, stance: Any) -> Any:
    return dataclasses.replace(stance, stance="force_eager")


def _reduced_exactly(_: Device, original: Callable[..., Any]) -> Callable[..., Any]:
    """all_reduce that takes float64 for the smallest and the largest, by integers that are ordered alike."""

    @functools.wraps(original)
    def all_reduce(tensor: Tensor, op: Any = ReduceOp.SUM, *args: Any, **kwargs: Any) -> Any:
        if tensor.dtype != torch.float64 or op not in {ReduceOp.MIN, ReduceOp.MAX} or tensor.device.type != "npu":
            return original(tensor, op, *args, **kwargs)
        ordered = _swap_order(tensor.cpu().view(torch.int64)).to(tensor.device)
        done = original(ordered, op, *args, **kwargs)
        if done is not None:
            raise NotImplementedError("all_reduce of float64 with async_op=True: hccl has no float64")
        tensor.copy_(_swap_order(ordered.cpu()).view(torch.float64))
        return None

    return all_reduce


def _swap_order(bits: Tensor) -> Tensor:
    """The bits of a float64 as an int64 of the same order, and back: those of negative numbers count backwards."""
    return torch.where(bits < 0, bits ^ torch.iinfo(torch.int64).max, bits)


_SET_UP = "megatron.training.initialize:_initialize_distributed"
_MODEL = "megatron.training.training:get_model"
_REPORT = "megatron.training.utils:report_memory"
_SCRIPT = "a script"

SCRIPT_ROWS: tuple[Row, ...] = (
    Row(
        "torch.cuda:is_available",
        "megatron.training.initialize:initialize_megatron",
        "asserted before anything else; torch itself still hears the truth",
        lambda device, original: _unless_torch_asks(lambda: True, original),
    ),
    Row(
        "torch.cuda:device_count",
        _SET_UP,
        "the number of cards; CPUs are as many as processes on the node",
        lambda device, original: _unless_torch_asks(lambda: _count(device), original),
    ),
    Row("torch.cuda:set_device", _SET_UP, "chooses the card of the process", _set_device),
    Row(
        "torch.cuda:get_device_properties",
        "megatron.training.utils:get_device_arch_version",
        "its compute capability is compared with numbers; it is 0.0",
        _properties,
    ),
    Row(
        "torch.cuda:get_device_capability",
        "megatron.training.arguments:validate_args",
        "the same",
        lambda *_: lambda *_: (0, 0),
    ),
    Row(
        "torch.cuda:set_rng_state",
        "megatron.training.checkpointing:load_checkpoint",
        "continues the generator of the device; without CUDA the call would only be queued",
        _set_rng_state,
    ),
    *(
        Row(f"torch.cuda:{name}", _SCRIPT, "the same, or an error", _generators(name))
        for name in ("get_rng_state_all", "set_rng_state_all", "manual_seed_all", "seed", "seed_all", "initial_seed")
    ),
    Row("torch.distributed:init_process_group", _SET_UP, "nccl is gloo or hccl", _collectives),
    Row("torch.distributed:new_group", "megatron.core.parallel_state:create_group", "the same", _collectives),
    Row(
        "torch.distributed:all_reduce",
        "megatron.training.training:pretrain",
        "the earliest start of all ranks is found in float64, which hccl does not reduce",
        _reduced_exactly,
        on=("npu",),
    ),
    Row("torch.nn:Module.cuda", _MODEL, "moves the model to the device", moved),
    Row("torch:Tensor.to", _SCRIPT, '.to("cuda"), .to(0)', _to),
    Row("torch.nn:Module.to", _SCRIPT, '.to("cuda"), .to(0)', _to),
    *(
        Row(f"torch:{name}", _SCRIPT, 'device="cuda"', redirected_factory)
        for name in (
            *("arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "logspace"),
            *("rand", "randint", "randn", "randperm", "tril_indices", "triu_indices"),
            *(f"{each}_like" for each in ("empty", "full", "ones", "rand", "randint", "randn", "zeros")),
            *(f"Tensor.new_{each}" for each in ("empty", "full", "ones", "tensor", "zeros")),
        )
    ),
    Row("torch:Tensor.pin_memory", _SCRIPT, "the CPU copies to no card", lambda *_: _not_pinned, ("cpu",)),
    *(
        Row(f"torch.cuda:{name}", _MODEL, "streams of the device; of the CPU they do nothing", _of_runtime(name))
        for name in ("Stream", "Event", "stream", "current_stream")
    ),
    *(
        Row(
            f"torch.cuda:{name}",
            _REPORT,
            "memory of the device; of the CPU CUDA's answer is 0",
            _of_runtime(name),
            ("npu",),
        )
        for name in (
            "empty_cache",
            "max_memory_allocated",
            "max_memory_reserved",
            "memory_allocated",
            "memory_reserved",
            "memory_stats",
            "reset_peak_memory_stats",
        )
    ),
    Row(
        "torch._dynamo.eval_frame:_stance",
        "megatron.core.jit:jit_fuser",
        "torch.compile asks torch.cuda for a card and a compiler; what it wraps runs as it is written",
        _eager,
    ),
    Row(
        "megatron.legacy.fused_kernels:load",
        "megatron.training.initialize:_compile_dependencies",
        "looks for nvcc, and compiles nothing any more",
        lambda *_: lambda *_: None,
        part_of="megatron.legacy",
    ),
)
