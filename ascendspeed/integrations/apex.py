"""NVIDIA's and Ascend's apex: which is installed, and whether its fused Adam and norms work here.

Which kernels an apex has depends on how it was built, so each is tried on a small tensor of the device and compared
with torch before it is used. PyPI's package of the same name is another one and is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["Adam", "UnrelatedApexError", "choose_adam", "choose_norm", "find", "megatron_adam"]

_TOLERANCE = 1e-5  # of numbers around 1 in float32, through a handful of roundings


class UnrelatedApexError(ImportError):
    """The package `apex` that is installed is neither NVIDIA's nor Ascend's."""


@dataclass(frozen=True)
class Adam:
    """An Adam with decoupled weight decay, and why it was chosen.

    make: from parameter groups, and lr, betas, eps, weight_decay by name, to the optimizer.
    """

    name: str
    make: Callable[..., torch.optim.Optimizer]
    reason: str


def find() -> str | None:
    """Whose apex is installed: "NVIDIA", "Ascend" or None. Imports nothing of it.

    Raises:
        UnrelatedApexError: it is another package of that name; the message says how to get rid of it.
    """
    spec = importlib.util.find_spec("apex")
    # A folder of that name beside the script is no package: NVIDIA's sources, checked out, have one.
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    if not (folder / "optimizers").is_dir():
        raise UnrelatedApexError(
            f"the package apex in {folder}{_what_it_is()} is not NVIDIA's or Ascend's apex: "
            "remove it (pip uninstall apex); without apex torch's fused AdamW is used"
        )
    return "Ascend" if (folder / "optimizers" / "npu_fused_adamw.py").is_file() else "NVIDIA"


def choose_adam(device: torch.device) -> Adam:
    """The fused Adam to use on `device`: apex's, if it is installed and works there, else torch's.

    Raises:
        UnrelatedApexError: see `find`.
    """
    owner = find()
    reasons = []
    for name in () if owner is None else ("FusedAdam", "NpuFusedAdamW"):
        try:
            make = _apex_adam(name)
            _try_adam(make, device)
        except Exception as error:  # whatever a missing or foreign kernel raises
            reasons.append(f"apex.optimizers.{name}: {_one_line(error)}")
        else:
            return Adam(f"{owner}'s apex.optimizers.{name}", make, "installed")
    return Adam("torch's fused AdamW", _torch_adam, "; ".join(reasons) or "apex is not installed")


def choose_norm(kind: str, device: torch.device) -> type[torch.nn.Module] | None:
    """apex's fused norm, constructed as (size, eps=), if apex is installed and the norm works on `device`.

    Args:
        kind: "LayerNorm" or "RMSNorm".

    Raises:
        UnrelatedApexError: see `find`.
    """
    if find() is None:
        return None
    try:
        norm: type[torch.nn.Module] = getattr(importlib.import_module("apex.normalization"), f"Fused{kind}")
        _try_norm(norm, getattr(torch.nn, kind), device)
    except Exception:  # whatever a missing or foreign kernel raises; torch's norm is then the same function
        return None
    return norm


@contextlib.contextmanager
def megatron_adam(adam: Adam) -> Iterator[None]:
    """Inside, get_megatron_optimizer makes its Adam by `adam`. Transformer Engine's goes before, where it is installed.

    megatron-core takes apex's FusedAdam by itself, whether or not its kernels are there, and no argument names another.
    """
    module: Any = importlib.import_module("megatron.core.optimizer")
    distributed: Any = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    if module.Adam.__module__.startswith("transformer_engine"):
        yield
        return
    before = module.Adam, module.USING_PYTORCH_OPTIMIZER, distributed.Adam
    module.Adam, module.USING_PYTORCH_OPTIMIZER = _with_mode(adam.make), False
    distributed.Adam = torch.optim.Optimizer  # which it only takes an Adam for; Ascend's is neither apex's nor torch's
    try:
        yield
    finally:
        module.Adam, module.USING_PYTORCH_OPTIMIZER, distributed.Adam = before


def _with_mode(make: Callable[..., torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    def made(params: Any, *, adam_w_mode: bool = True, **options: Any) -> torch.optim.Optimizer:
        if not adam_w_mode:
            raise NotImplementedError("decoupled_weight_decay=False is not supported; it must be True")
        return make(params, **options)

    return made


def _torch_adam(params: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, fused=True, **options)


def _apex_adam(name: str) -> Callable[..., torch.optim.Optimizer]:
    optimizer: Callable[..., torch.optim.Optimizer] = getattr(importlib.import_module("apex.optimizers"), name)
    if name == "NpuFusedAdamW":
        return optimizer
    return lambda params, **options: optimizer(params, adam_w_mode=True, **options)


def _try_adam(make: Callable[..., torch.optim.Optimizer], device: torch.device) -> None:
    """Two updates of a small parameter, held against torch's; raises what the optimizer raises, or ArithmeticError."""
    start = torch.linspace(-1, 1, 33, device=device)
    options: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    ended = []
    for each in (make, torch.optim.AdamW):
        parameter = torch.nn.Parameter(start.clone())
        place = parameter.data_ptr()
        optimizer = each([{"params": [parameter]}], **options)
        for step in (1, 2):
            parameter.grad = start * step + 0.3
            optimizer.step()
        if parameter.data_ptr() != place:
            raise RuntimeError("it moves the parameters, which megatron-core keeps in buffers")
        ended.append(parameter.detach())
    if not torch.allclose(ended[0], ended[1], rtol=0, atol=_TOLERANCE):
        raise ArithmeticError("its update is not that of Adam with decoupled weight decay")


def _try_norm(norm: type[torch.nn.Module], torchs: type[torch.nn.Module], device: torch.device) -> None:
    x = torch.linspace(-1, 3, 4 * 32, device=device).view(4, 32)
    results = []
    for each in (norm, torchs):
        module = each(32, eps=1e-5).to(device)
        leaf = x.clone().requires_grad_()
        output = module(leaf)
        (output * x).sum().backward()
        assert leaf.grad is not None
        results.append(torch.cat([output.detach(), leaf.grad]))
    if not torch.allclose(results[0], results[1], rtol=0, atol=_TOLERANCE * float(results[1].abs().max())):
        raise ArithmeticError("it is another function")


def _what_it_is() -> str:
    """In words, from the metadata of what is installed under that name."""
    try:
        said = metadata("apex")
    except PackageNotFoundError:
        return ""
    return f" ({said['Name']} {said['Version']}: {said['Summary']})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
