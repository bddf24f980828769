"""What the attention layers of a model really run, printed and proven before training; a layer that lies stops the job.

Each distinct configuration computes small cases through its own forward and is held against the dense float64
reference under the mask Megatron's words mean, which `contract_cases` states a second time on purpose. A wrong mask
trains without complaint; here it does not start.

# B batch, N query heads and G key/value groups of this rank, D head size, S Sq/Skv length, off = Skv - Sq
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.contract_cases import ContractCase, cases, dtype_of, reaches_the_edges
from ascendspeed.integrations.megatron.masks import MAPPING, MappingRow
from ascendspeed.ops import active_isa, dropout_gen_mask, reference

__all__ = ["AttentionContractError", "report_attention_contract"]

SEED = 20260  # of the case with dropout
EPS32 = torch.finfo(torch.float32).eps


class AttentionContractError(RuntimeError):
    """An attention layer computes something else than its configuration says."""


def report_attention_contract(model: torch.nn.Module, log: Callable[[str], None] = print) -> list[str]:
    """Print on rank 0 what each distinct attention layer runs, after every rank has checked its own layers.

    A collective: every rank of the world calls it, after the process group is up. It draws from its own generator. A
    rank that has no attention layer, or whose check stops with an error, takes part all the same: none waits for it.

    Args:
        model: the model, or this rank's part of it.
        log: what rank 0 hands each line to.

    Returns:
        The lines, on every rank.

    Raises:
        AttentionContractError: on every rank, if any rank found a layer that differs from the reference, or could not
            check one; a rank that could not raises the error that stopped it.
        ValueError: on every rank, if no layer of any rank uses the operator.
    """
    lines: dict[str, list[int]] = {}
    failures: list[str] = []
    stopped: Exception | None = None
    try:
        _check_own(model, lines, failures)
    except Exception as error:
        stopped = error
        failures.append(f"the check stopped with {type(error).__name__}: {error}")
    ranks: list[tuple[dict[str, list[int]], list[str]] | None] = [(lines, failures)]
    if dist.is_available() and dist.is_initialized():
        ranks = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, (lines, failures))
    if stopped is not None:
        raise stopped
    return _conclude([part for part in ranks if part is not None], log)


def _check_own(model: torch.nn.Module, lines: dict[str, list[int]], failures: list[str]) -> None:
    """Add this rank's layers to `lines`, by what they run, and the lines that are wrong to `failures`."""
    checked: dict[str, str] = {}
    for attention, row in _layers_and_rows(model):
        said = _describe(attention, row, _device(model))
        if said not in checked:
            outcome, failed = _check(attention, row, _device(model))
            checked[said] = f"{said} | {outcome}"
            if failed:
                failures.append(checked[said])
        lines.setdefault(checked[said], []).append(attention.layer_number)


def _layers_and_rows(model: torch.nn.Module) -> Iterator[tuple[AscendDotProductAttention, MappingRow]]:
    for layer in model.modules():
        if not isinstance(layer, AscendDotProductAttention):
            continue
        for row in MAPPING:
            if row.kind == layer.mask_kind and row.window == (layer.window_size is not None):
                yield layer, row


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _describe(attention: AscendDotProductAttention, row: MappingRow, device: torch.device) -> str:
    case = next(cases(attention, row, device))
    plan = attention.plan(case.query, case.key, case.attention_mask, case.packed_seq_params)
    mask = "if a bool attention_mask is given"
    given = {"nothing": "with attention_mask None", "mask": mask, "lengths": "with prefix lengths"}[row.given]
    given += " and packed_seq_params" if row.packed else ""
    window = "" if attention.window_size is None else f" window {attention.window_size}"
    if not reaches_the_edges(attention):
        window += " (too wide for the check to reach its edges)"
    alibi = "" if attention.slopes is None else f" | ALiBi slopes {attention.slopes[0]:.6g}..{attention.slopes[-1]:.6g}"
    backend = f"cpu/{active_isa()}" if device.type == "cpu" else device.type
    return (
        f"mask {row.kind}{window} {given}"
        f" | layout {plan.layout} sparse_mode {plan.sparse_mode}"
        f" atten_mask {'none' if plan.atten_mask is None else list(plan.atten_mask.shape[-2:])}"
        f" pre_tockens {plan.pre_tockens} next_tockens {plan.next_tockens}{alibi}"
        f" | scale {attention.scale:.6g} keep_prob {1 - attention.dropout:.6g}"
        f" | heads {attention.heads.head_num} groups {attention.heads.query_groups} of {attention.head_size}"
        f" | {str(dtype_of(attention)).removeprefix('torch.')} on {backend}"
    )


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
    for case in cases(attention, row, device):
        # the leaves are copies: a case must not be changed by its own check
        query, key, value = (t.detach().clone().requires_grad_() for t in (case.query, case.key, case.value))
        n, d = attention.heads.head_num, attention.head_size
        packed = case.packed_seq_params
        problem: dict[str, Any] = {"mask": case.excluded, "shift": case.shift, "shift_in_scale": False}
        with torch.enable_grad():
            if case.name == "dropout":
                plan, keep_prob = attention.plan(query, key, case.attention_mask, packed), 1 - attention.dropout
                output = attention.attend(query, key, value, plan, keep_prob=keep_prob, seed=SEED)
                problem |= {"keep": _kept(case, keep_prob), "keep_prob": keep_prob}
            else:
                output = attention(query, key, value, case.attention_mask, packed_seq_params=packed)
        if packed is not None:
            output = output.unsqueeze(1)
        got = output.detach().unflatten(2, (n, d)).permute(1, 2, 0, 3).cpu().double()
        q, k, v = (t.detach().cpu().permute(1, 2, 0, 3) for t in (query, key, value))
        forward = reference.attention(q, k, v, scale=scale, **problem)
        tolerance = _tolerance(q, k, scale, query.dtype, case.shift)
        # element by element: what rounding of probabilities and output can move; exactly 0 where nothing is seen
        bound = tolerance * reference.attention(q, k, v.abs(), scale=scale, **problem).attention_out
        worst_forward = max(worst_forward, _ratio((got - forward.attention_out).abs(), bound))
        if case.name != "probe":
            output_grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
            output.backward(output_grad)
            dy = output_grad.unflatten(2, (n, d)).permute(1, 2, 0, 3).cpu()
            gradients = reference.attention_grad(q, k, v, dy, scale=scale, forward=forward, **problem)
            for leaf, want in zip((query, key, value), gradients[:3], strict=True):
                assert leaf.grad is not None
                off_by = (leaf.grad.permute(1, 2, 0, 3).cpu().double() - want).abs().max()
                worst_backward = max(worst_backward, _ratio(off_by, 2 * tolerance * want.abs().max()))
    return worst_forward, worst_backward


def _kept(case: ContractCase, keep_prob: float) -> Tensor:
    """The dropout mask of SEED, bool [B, N, Sq, Skv]; in a packed batch the bits of the documents lie end to end."""
    batch, n, query_length, key_length = case.excluded.shape
    spans = case.documents or ((query_length, key_length),)
    numbers = batch * n * sum(queries * keys for queries, keys in spans)
    bits = dropout_gen_mask(case.query, numbers, keep_prob, SEED).cpu()
    keep = torch.zeros(case.excluded.shape, dtype=torch.bool)
    first = row = column = 0
    for queries, keys in spans:
        own = reference.kept(bits, batch, n, queries, keys, first=first)
        keep[:, :, row : row + queries, column : column + keys] = own
        first, row, column = first + own.numel(), row + queries, column + keys
    return keep


def _tolerance(query: Tensor, key: Tensor, scale: float, dtype: torch.dtype, shift: Tensor | None) -> float:
    """Relative error of P V: the dtype's rounding of P and of the output, and float32 sums of D and Skv terms.

    A score is off by at most ds = D eps sum|q k| scale, and by eps of what ALiBi adds in its product and in its sum;
    that moves a probability by at most 2 ds of itself. Gradients, held to twice this of their largest element, pass
    through a few more such sums and roundings.
    """
    groups = query.shape[1] // key.shape[1]
    magnitude = query.double().abs() @ key.double().abs().repeat_interleave(groups, dim=1).mT
    ds = query.shape[-1] * EPS32 * float(magnitude.max()) * scale
    if shift is not None:
        ds += 2 * EPS32 * float(shift.abs().max())
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
    if not report and not failed:
        raise ValueError("the model has no AscendDotProductAttention: its attention is not the operator's")
    if failed:
        raise AttentionContractError(
            "attention does not compute what its configuration says, or could not be checked; training would use a "
            "wrong mask, scale or head order:\n" + "\n".join(failed)
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
