"""What a model chunk of the trainer really keeps between its forward and backward pass, and the most there is at once.

The chunk is the trainer's own, on one rank of a job of any size (fake_world). Its tensors are torch's fake ones, which
know their size and have no memory behind them, or real ones.
"""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from megatron.core.tensor_parallel import random as generators
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ascendspeed.device import Device
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.fake_world import fake_world, meta_config
from ascendspeed.training.model import build_chunk

__all__ = ["Traced", "trace"]


class Traced(NamedTuple):
    """Bytes of one micro-batch through one chunk, parameters and their gradients at rest not counted."""

    kept: int
    """In tensors that autograd has saved when the forward pass is over."""
    peak: int
    """The most of forward and backward pass together."""


def trace(run: RunConfig, stage: int, vocab_rows: int, fake: bool = True) -> Traced:
    """Run chunk 0 of pipeline stage `stage` forward and backward."""
    rank = stage * run.world_size // run.parallel.pipeline_model_parallel_size
    with contextlib.ExitStack() as stack:
        stack.enter_context(fake_world(run, rank, Device("cpu")))
        if fake:
            stack.enter_context(_no_generators())
            stack.enter_context(FakeTensorMode())
        else:
            model_parallel_cuda_manual_seed(run.training.seed)
        model = build_chunk(run, meta_config(run), vocab_rows)
        dtype = torch.bfloat16 if run.model.bf16 else torch.float32
        _cast(model, dtype)
        for parameter in model.parameters():
            # As DistributedDataParallel does when the gradient has been added to its buffer.
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        batch, length = run.training.micro_batch_size, run.model.seq_length
        ids = torch.zeros(batch, length, dtype=torch.int64)
        positions = torch.zeros_like(ids)
        if not model.pre_process:
            part = length // run.parallel.tensor_model_parallel_size if run.parallel.sequence_parallel else length
            model.set_input_tensor(torch.zeros(part, batch, run.model.hidden_size, dtype=dtype, requires_grad=True))
        saved: dict[int, Tensor] = {}

        def save(tensor: Tensor) -> Tensor:
            saved.setdefault(tensor.untyped_storage()._cdata, tensor.detach())
            return tensor

        live = _Live(model)
        with live:
            with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
                output = model(ids, positions, None, labels=ids if model.post_process else None)
            own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
            kept = sum(
                tensor.untyped_storage().nbytes()
                for storage, tensor in saved.items()
                if storage not in own and not _is_mask(tensor)
            )
            saved.clear()
            torch.autograd.backward(output, torch.zeros_like(output))
        return Traced(kept, live.peak)


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until they are gone."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(parameter.untyped_storage() for parameter in model.parameters())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                self._add(tensor)
        return output

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._seen.add(storage)
        if not _is_mask(tensor):
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


def _is_mask(tensor: Tensor) -> bool:
    """Whether it is the operator's triangle: one for the whole process, but under fake tensors one for each layer."""
    return tensor.dtype == torch.bool and tensor.shape == (2048, 2048)


def _cast(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """What Float16Module does, which cannot on fake tensors: it swaps them."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = cast = torch.nn.Parameter(parameter.detach().to(dtype))
            vars(cast).update(vars(parameter))


@contextlib.contextmanager
def _no_generators() -> Iterator[None]:
    """Leave megatron-core's random states alone: they are real tensors."""
    with contextlib.ExitStack() as stack:
        for owner, name, answer in (
            (generators.CudaRNGStatesTracker, "fork", lambda *_: contextlib.nullcontext()),
            (generators, "_fork_rng", contextlib.nullcontext),
            (generators, "_get_all_rng_states", lambda: (None, None, None)),
            (generators, "_set_all_rng_states", lambda *_: None),
        ):
            stack.enter_context(mock.patch.object(owner, name, answer))
        yield
