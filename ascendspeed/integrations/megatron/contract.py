"""What the attention layers of a model really run, printed and proven before training; a layer that lies stops the job.

Each distinct configuration computes small cases through its own forward and is held against the dense float64
reference under the mask Megatron's words mean, which is stated here a second time on purpose. A wrong mask trains
without complaint; here it does not start.

# B batch, N query heads and G key/value groups of this rank, D head size, S Sq/Skv length, off = Skv - Sq
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.masks import MAPPING, MappingRow
from ascendspeed.ops import active_isa, dropout_gen_mask, reference

__all__ = ["AttentionContractError", "excluded_by_megatron", "report_attention_contract"]

LENGTH = 40
BATCH = 3
MOST_SCORES = 2**20  # per head; a window too wide for a case of this size is checked inside its edges only
SEED = 20260  # of the case with dropout
EPS32 = torch.finfo(torch.float32).eps


class AttentionContractError(RuntimeError):
    """An attention layer computes something else than its configuration says."""


def report_attention_contract(model: torch.nn.Module, log: Callable[[str], None] = print) -> list[str]:
    """Print on rank 0 what each distinct attention layer runs, after every rank has checked its own layers.

    A collective: every rank of the world calls it, after the process group is up. It draws from its own generator.

    Args:
        model: the model, or this rank's part of it.
        log: what rank 0 hands each line to.

    Returns:
        The lines, on every rank.

    Raises:
        AttentionContractError: on every rank, if any rank found a layer that differs from the reference.
        ValueError: no layer of the model uses the operator.
    """
    lines: dict[str, list[int]] = {}
    failures: list[str] = []
    checked: dict[str, str] = {}
    for attention, row in _layers_and_rows(model):
        said = _describe(attention, row, _device(model))
        if said not in checked:
            outcome, failed = _check(attention, row, _device(model))
            checked[said] = f"{said} | {outcome}"
            if failed:
                failures.append(checked[said])
        lines.setdefault(checked[said], []).append(attention.layer_number)
    ranks: list[tuple[dict[str, list[int]], list[str]] | None] = [(lines, failures)]
    if dist.is_available() and dist.is_initialized():
        ranks = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, (lines, failures))
    return _conclude([part for part in ranks if part is not None], log)


def excluded_by_megatron(
    kind: str,
    attention_mask: Tensor | None,
    window_size: tuple[int, int] | None,
    query_length: int,
    key_length: int,
) -> Tensor:
    """The positions Megatron's words leave out: bool [1 or B, 1, Sq, Skv], element by element."""
    i = torch.arange(query_length).view(-1, 1)
    j = torch.arange(key_length).view(1, -1)
    off = key_length - query_length
    out = torch.zeros(1, 1, query_length, key_length, dtype=torch.bool)
    if window_size is not None:
        left, right = window_size
        out = out | ((left >= 0) & (j < i + off - left)) | ((right >= 0) & (j > i + off + right))
    if kind == "prefix":
        assert attention_mask is not None
        return out | ((j > i + off) & (j >= attention_mask.cpu().view(-1, 1, 1, 1)))
    if kind == "padding_causal" or (kind == "causal" and attention_mask is None and window_size is None):
        out = out | (j > i)
    if kind == "causal_bottom_right":
        out = out | (j > i + off)
    return out if attention_mask is None else out | attention_mask.cpu()


@dataclass(frozen=True)
class _Case:
    """Inputs in Megatron's [s, b, n, d], and the mask they are called with."""

    query: Tensor
    key: Tensor
    value: Tensor
    attention_mask: Tensor | None


def _layers_and_rows(model: torch.nn.Module) -> Iterator[tuple[AscendDotProductAttention, MappingRow]]:
    layers = [module for module in model.modules() if isinstance(module, AscendDotProductAttention)]
    if not layers:
        raise ValueError("the model has no AscendDotProductAttention: its attention is not the operator's")
    for layer in layers:
        for row in MAPPING:
            if row.kind == layer.mask_kind and row.window == (layer.window_size is not None):
                yield layer, row


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _dtype(attention: AscendDotProductAttention) -> torch.dtype:
    config = attention.config
    dtype: torch.dtype = torch.bfloat16 if config.bf16 else torch.float16 if config.fp16 else config.params_dtype
    return dtype


def _describe(attention: AscendDotProductAttention, row: MappingRow, device: torch.device) -> str:
    case = next(_cases(attention, row, device))[1]
    plan = attention.plan(case.query, case.key, case.attention_mask)
    mask = "if a bool attention_mask is given"
    given = {"nothing": "with attention_mask None", "mask": mask, "lengths": "with prefix lengths"}[row.given]
    window = "" if attention.window_size is None else f" window {attention.window_size}"
    if attention.window_size is not None and _across(attention.window_size) is None:
        window += " (too wide for the check to reach its edges)"
    backend = f"cpu/{active_isa()}" if device.type == "cpu" else device.type
    return (
        f"mask {row.kind}{window} {given}"
        f" | layout {attention.layout} sparse_mode {plan.sparse_mode}"
        f" atten_mask {'none' if plan.atten_mask is None else list(plan.atten_mask.shape[-2:])}"
        f" pre_tockens {plan.pre_tockens} next_tockens {plan.next_tockens}"
        f" | scale {attention.scale:.6g} keep_prob {1 - attention.dropout:.6g}"
        f" | heads {attention.heads.head_num} groups {attention.heads.query_groups} of {attention.head_size}"
        f" | {str(_dtype(attention)).removeprefix('torch.')} on {backend}"
    )


def _cases(attention: AscendDotProductAttention, row: MappingRow, device: torch.device) -> Iterator[tuple[str, _Case]]:
    """First random numbers: head order, scale, gradients. Then probes, which read the mask exactly.

    In a probe all scores are 0, so every seen key weighs the same, and the columns of the values are the unit vectors
    of some keys: an output is zero if and only if its query does not see its key. No rounding hides a single key.
    """
    generator = torch.Generator().manual_seed(20260)
    query_length, key_length = _lengths(row.kind, attention.window_size)
    heads, size = attention.heads, attention.head_size
    mask = _sample_mask(row, query_length, key_length, generator)

    def on_device(tensor: Tensor) -> Tensor:
        return tensor.to(device, _dtype(attention))

    query, key, value = (
        torch.randn(length, BATCH, n, size, generator=generator)
        for length, n in (
            (query_length, heads.head_num),
            (key_length, heads.query_groups),
            (key_length, heads.query_groups),
        )
    )
    mask = None if mask is None else mask.to(device)
    random = _Case(on_device(query), on_device(key), on_device(value), mask)
    yield "random", random
    if attention.dropout > 0:
        yield "dropout", random
    edges = torch.arange(key_length)
    for keys in (edges if key_length <= 128 else torch.cat([edges[:48], edges[-48:]])).split(size):
        unit = torch.zeros_like(value)
        unit[keys, :, :, torch.arange(len(keys))] = 1.0
        yield "probe", _Case(on_device(torch.zeros_like(query)), on_device(key), on_device(unit), mask)


def _lengths(kind: str, window_size: tuple[int, int] | None) -> tuple[int, int]:
    across = None if window_size is None else _across(window_size)
    return across or (LENGTH, LENGTH + 8 if kind == "causal_bottom_right" else LENGTH)


def _across(window_size: tuple[int, int]) -> tuple[int, int] | None:
    """Lengths with queries on both sides of both edges of the window; None if they would make too large a case."""
    left, right = (max(0, side) for side in window_size)
    query_length, key_length = right + 16, right + left + 24
    return (query_length, key_length) if query_length * key_length <= MOST_SCORES else None


def _sample_mask(row: MappingRow, query_length: int, key_length: int, generator: torch.Generator) -> Tensor | None:
    if row.given == "nothing":
        return None
    if row.given == "lengths":
        return torch.tensor([0, key_length // 3, key_length])[:BATCH]
    mask = torch.rand(BATCH, 1, query_length, key_length, generator=generator) < 0.4
    mask.diagonal(dim1=-2, dim2=-1).fill_(False)  # every query sees a key: rows without one are the operator's tests'
    return mask


def _check(attention: AscendDotProductAttention, row: MappingRow, device: torch.device) -> tuple[str, bool]:
    """The largest error in units of its tolerance over all cases, in words, and whether it is too large."""
    training = attention.training
    attention.eval()  # dropout has a case of its own, under a seed that the reference knows too
    try:
        worst_forward, worst_backward = _worst_errors(attention, row, device)
    finally:
        attention.train(training)
    verdict = f"error / tolerance: forward {worst_forward:.2g}, backward {worst_backward:.2g}"
    return verdict, not (worst_forward <= 1.0 and worst_backward <= 1.0)


def _worst_errors(attention: AscendDotProductAttention, row: MappingRow, device: torch.device) -> tuple[float, float]:
    config = attention.config
    scale = config.kv_channels**-0.5 if config.softmax_scale is None else config.softmax_scale  # not the layer's word
    worst_forward = worst_backward = 0.0
    for name, case in _cases(attention, row, device):
        # the leaves are copies: a case must not be changed by its own check
        query, key, value = (t.detach().clone().requires_grad_() for t in (case.query, case.key, case.value))
        n, d, batch = attention.heads.head_num, attention.head_size, query.shape[1]
        dropped: dict[str, Any] = {}
        with torch.enable_grad():
            if name == "dropout":
                plan, keep_prob = attention.plan(query, key, case.attention_mask), 1 - attention.dropout
                output = attention.attend(query, key, value, plan, keep_prob=keep_prob, seed=SEED)
                sizes = (batch, n, query.shape[0], key.shape[0])
                bits = dropout_gen_mask(query, math.prod(sizes), keep_prob, SEED).cpu()
                dropped = {"keep": reference.kept(bits, *sizes), "keep_prob": keep_prob}
            else:
                output = attention(query, key, value, case.attention_mask)
        got = output.detach().unflatten(2, (n, d)).permute(1, 2, 0, 3).cpu().double()
        q, k, v = (t.detach().cpu().permute(1, 2, 0, 3) for t in (query, key, value))
        mask = excluded_by_megatron(
            row.kind, case.attention_mask, attention.window_size, query.shape[0], key.shape[0]
        ).expand(batch, n, query.shape[0], key.shape[0])
        expected = reference.attention(q, k, v, scale=scale, mask=mask, **dropped).attention_out
        tolerance = _tolerance(q, k, scale, query.dtype)
        # element by element: what rounding of probabilities and output can move; exactly 0 where nothing is seen
        bound = tolerance * reference.attention(q, k, v.abs(), scale=scale, mask=mask, **dropped).attention_out
        error = (got - expected).abs()
        worst_forward = max(worst_forward, _ratio(error, bound))
        if name != "probe":
            output_grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
            output.backward(output_grad)
            dy = output_grad.unflatten(2, (n, d)).permute(1, 2, 0, 3).cpu()
            gradients = reference.attention_grad(q, k, v, dy, scale=scale, mask=mask, **dropped)
            for leaf, want in zip((query, key, value), gradients[:3], strict=True):
                assert leaf.grad is not None
                off_by = (leaf.grad.permute(1, 2, 0, 3).cpu().double() - want).abs().max()
                worst_backward = max(worst_backward, float(off_by / (2 * tolerance * want.abs().max())))
    return worst_forward, worst_backward


def _tolerance(query: Tensor, key: Tensor, scale: float, dtype: torch.dtype) -> float:
    """Relative error of P V: the dtype's rounding of P and of the output, and float32 sums of D and Skv terms.

    A score is off by at most ds = D eps sum|q k| scale, which moves a probability by at most 2 ds of itself.
    Gradients, held to twice this of their largest element, pass through a few more such sums and roundings.
    """
    groups = query.shape[1] // key.shape[1]
    magnitude = query.double().abs() @ key.double().abs().repeat_interleave(groups, dim=1).mT
    ds = query.shape[-1] * EPS32 * float(magnitude.max()) * scale
    return torch.finfo(dtype).eps + 2 * ds + key.shape[2] * EPS32


def _ratio(error: Tensor, bound: Tensor) -> float:
    """max(error / bound), where 0 / 0 is 0 and a NaN is infinitely wrong."""
    ratio = torch.where(error == 0, 0.0, error / bound)
    return float(ratio.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def _conclude(ranks: list[tuple[dict[str, list[int]], list[str]]], log: Callable[[str], None]) -> list[str]:
    merged: dict[str, set[int]] = {}
    for lines, _ in ranks:
        for line, layers in lines.items():
            merged.setdefault(line, set()).update(layers)
    report = [f"attention layers {_spans(sorted(layers))} | {line}" for line, layers in merged.items()]
    failed = [f"rank {rank}: {failure}" for rank, (_, failures) in enumerate(ranks) for failure in failures]
    if not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0:
        for line in report:
            log(line)
    if failed:
        raise AttentionContractError(
            "attention does not compute what its configuration says; training would use a wrong mask, scale or head "
            "order:\n" + "\n".join(failed)
        )
    return report


def _spans(numbers: list[int]) -> str:
    """1, 2, 3, 7 as "1-3, 7"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
