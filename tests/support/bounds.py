"""How far a kernel that sums in float32 may be from the float64 reference, element by element.

To first order in u = 2^-24, the rounding unit of float32 (Higham, Accuracy and Stability of Numerical Algorithms,
chapter 3: a sum of n terms is off by at most n u times the sum of magnitudes, in any order). Where a relative error is
not small it is carried as expm1(error); where numbers underflow an absolute error is added. Nothing here is tuned:
each term is named.

Shapes: query [B, N, Sq, D], key and value repeated to N heads.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ascendspeed.ops import reference
from ascendspeed.ops.library import multiplies_bfloat16

_U = torch.finfo(torch.float32).eps / 2
_FLUSH = 2 * torch.finfo(torch.float32).smallest_normal  # exp gives 0 where its result would be denormal
_DENORMAL = torch.finfo(torch.float32).smallest_normal * 2 * _U  # what a product that underflows may lose
# Products of bfloat16 round P and dS to bfloat16 first, and take for 0 what lies below the smallest normal number.
_WEIGHT_U = torch.finfo(torch.bfloat16).eps / 2
_LOST = torch.finfo(torch.bfloat16).smallest_normal
_EXP_ULPS = 4  # the kernels' exp is within 2 ulp = 4 u
_KEYS_PER_STEP = 16  # at least as many keys per step of the online softmax; more steps mean more rounding


class Bound(NamedTuple):
    """Largest |error| allowed, element by element; dpse and dsink are None where there is no pse tensor or sink."""

    attention_out: Tensor
    softmax_max: Tensor
    softmax_sum: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor
    dpse: Tensor | None
    dsink: Tensor | None


def _rounded(value: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """`error` plus rounding value +- error once to `dtype`."""
    if dtype == torch.float32:
        return error + _U * (value.abs() + error) + _DENORMAL
    info = torch.finfo(dtype)
    rounded = error + info.eps / 2 * (value.abs() + error) + info.smallest_normal * info.eps / 2
    # From half a step beyond the largest number on, the nearest one is infinity.
    half_step = info.eps / 4 * 2 ** math.frexp(info.max)[1]
    overflows = value.abs() + error >= info.max + half_step
    return rounded.masked_fill(overflows, torch.inf)


def largest(errors: Iterable[float]) -> float:
    """Their maximum, NaN if one of them is: Python's max drops a NaN that does not come first."""
    return float(torch.tensor(list(errors), dtype=torch.float64).max())


def within(name: str, actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    """Assert |actual - expected| <= bound, element by element."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    if not actual.numel():
        return
    error = (actual.double() - expected).abs()
    worst = (error - bound).argmax()
    assert (error <= bound).all(), (
        f"{name}: |error| {error.flatten()[worst]:.3e} above {bound.flatten()[worst]:.3e} "
        f"at element {worst} (expected {expected.flatten()[worst]:.6e})"
    )


def bounds(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    *,
    scale: float,
    mask: Tensor,
    shift: Tensor | None = None,
    shift_in_scale: bool = True,
    sink: Tensor | None = None,
    keep: Tensor | None = None,
    keep_prob: float = 1.0,
    pse_shape: tuple[int, ...] | None = None,
    sink_rows: int | None = None,
    exact: reference.Forward | None = None,
    gradients: reference.Gradients | None = None,
) -> Bound:
    """Bounds for forward and backward of one problem; tensors as [B, N or Nkv, S, D] in the kernel's dtype.

    pse_shape: [1 or B, N, 1 or Sq, Skv] of a pse tensor, for the bound of its gradient.
    sink_rows: rows that the gradient of one sink is summed over, where this problem is one of several; default B * Sq.
    exact, gradients: the reference's results for the same arguments where the caller has them; else computed here.
    """
    dtype = query.dtype
    kv_heads = key.shape[1]
    group = query.shape[1] // kv_heads
    problem = {"shift": shift, "shift_in_scale": shift_in_scale, "sink": sink, "keep": keep, "keep_prob": keep_prob}
    if exact is None:
        exact = reference.attention(query, key, value, scale=scale, mask=mask, **problem)
    if gradients is None:
        gradients = reference.attention_grad(query, key, value, dy, scale=scale, mask=mask, forward=exact, **problem)
    factor = (
        1.0 if keep is None else keep.double() / keep_prob
    )  # applied in float32: 1 / keep_prob and the product round
    q, k, v, dy = (t.double() for t in (query, key, value, dy))
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    depth, keys, v_dim = q.shape[-1], k.shape[-2], v.shape[-1]
    rows = q.shape[-2] * group
    visible = (~mask).double()
    in_bfloat16 = dtype == torch.bfloat16 and multiplies_bfloat16()
    weight_u, lost = (_WEIGHT_U, _LOST) if in_bfloat16 else (0.0, 0.0)
    u = 2 * _U if in_bfloat16 else _U  # of a sum of products: Arm's instructions round to odd, x86's to nearest

    def may_lose(a: Tensor, b: Tensor) -> Tensor:
        """What a @ b loses where numbers and products may each count as 0."""
        return lost * (a.abs().sum(dim=-1, keepdim=True) + b.abs().sum(dim=-2, keepdim=True) + a.shape[-1])

    # A score: D products summed, a shift (distance, root, slope: three roundings) added, then scaled.
    inside, outside = (shift, 0.0) if shift_in_scale and shift is not None else (torch.zeros(()), shift)
    outside = torch.zeros(()) if outside is None else torch.as_tensor(outside)
    magnitude = (abs(scale) * (q.abs() @ k.abs().transpose(-1, -2) + inside.abs()) + outside.abs()) * visible
    score_error = (depth + 6) * u * magnitude.amax(dim=-1, keepdim=True)
    score_error = score_error + abs(scale) * may_lose(q, k.transpose(-1, -2)).amax(dim=-1, keepdim=True)
    # exp(score - max): errors of both scores, rounding of the subtraction, exp itself. The rescaling factors of the
    # online softmax multiply up to exp(total rise of the maximum), with one exp and one product per step.
    spread = magnitude.amax(dim=-1, keepdim=True) * 2
    if sink is not None:
        present = sink.double().masked_fill(sink == -torch.inf, 0.0)  # a sink of -inf takes no part in any sum
        spread = spread + 2 * present.abs().view(1, -1, 1, 1)
    steps = keys / _KEYS_PER_STEP + 1
    weight_error = torch.expm1(2 * score_error + 2 * _U * spread + (_EXP_ULPS + 2) * _U * (steps + 1))
    # Row sum and weighted sum run over the keys; the quotient has the error of both.
    sum_error = weight_error + (keys + 1) * _U
    total_error = 2 * sum_error + 5 * _U + (keys + 1) * (u - _U) + weight_u * (1 + 2 * sum_error)
    out_error = total_error * ((exact.probabilities * factor) @ v.abs()) + _FLUSH * ((visible * factor) @ v.abs())
    out_error = out_error + keys * _DENORMAL + may_lose(exact.probabilities * factor, v)

    # P in the backward: scores again, with the forward's max and sum.
    p = exact.probabilities
    p_error = weight_error + sum_error + (_EXP_ULPS + 3) * _U
    dp_scale = (dy.abs() @ v.abs().transpose(-1, -2)) * factor
    out_rounded = _rounded(exact.attention_out, out_error, dtype)
    delta_error = (dy.abs() * (out_rounded + (v_dim + 1) * _U * exact.attention_out.abs())).sum(dim=-1, keepdim=True)
    dp = (dy @ v.transpose(-1, -2)) * factor
    delta = (dy * exact.attention_out).sum(dim=-1, keepdim=True)
    ds = p * (dp - delta).abs()
    ds_error = (
        p * ((v_dim + 4) * u * dp_scale + may_lose(dy, v.transpose(-1, -2)) * factor + delta_error)
        + ds * (p_error + 4 * _U)
        + _FLUSH * (dp - delta).abs()
        + 2 * _DENORMAL
    )

    def over_group(t: Tensor) -> Tensor:
        return t.unflatten(1, (kv_heads, group)).sum(dim=2)

    packed_error = ds_error + weight_u * (ds + ds_error)
    dq_error = abs(scale) * ((packed_error + (keys + 2) * u * ds) @ k.abs()) + may_lose(scale * ds, k)
    ds_t, packed_error_t, z = ds.transpose(-1, -2), packed_error.transpose(-1, -2), p * factor
    dk_error = abs(scale) * ((packed_error_t + (rows + 2) * u * ds_t) @ q.abs()) + may_lose(scale * ds_t, q)
    z_error = z * (p_error + (rows + 4) * u + weight_u * (1 + p_error)) + _FLUSH * factor
    dv_error = z_error.transpose(-1, -2) @ dy.abs() + may_lose(z.transpose(-1, -2), dy)
    dk_error, dv_error = over_group(dk_error), over_group(dv_error)
    dq_error, dk_error, dv_error = dq_error + keys * _DENORMAL, dk_error + rows * _DENORMAL, dv_error + rows * _DENORMAL
    dpse = dsink = None
    if pse_shape is not None:
        by = abs(scale) if shift_in_scale else 1.0
        summed = ds.shape[0] * ds.shape[2]
        dpse_error = (by * (ds_error + (summed + 1) * _U * ds)).sum_to_size(pse_shape) + summed * _DENORMAL
        dpse = _rounded((by * gradients.ds).sum_to_size(pse_shape), dpse_error, dtype)
    if sink is not None:
        weight = torch.exp(sink.double().view(1, -1, 1) - exact.softmax_max) / exact.softmax_sum
        terms = weight * delta.squeeze(-1).abs()
        summed = terms.shape[0] * terms.shape[2] if sink_rows is None else sink_rows
        relative = p_error.squeeze(-1) + (summed + 4) * _U
        dsink = (terms * relative + weight * delta_error.squeeze(-1) + 2 * _DENORMAL).sum(dim=(0, 2))
    finite_max = exact.softmax_max.clamp(min=-spread.squeeze(-1).clamp(min=1.0))  # -FLT_MAX of empty rows is exact
    return Bound(
        out_rounded,
        score_error.squeeze(-1) + 2 * _U * finite_max.abs(),
        sum_error.squeeze(-1) * exact.softmax_sum,
        *(_rounded(g, e, dtype) for g, e in zip(gradients[:3], (dq_error, dk_error, dv_error), strict=True)),
        dpse,
        dsink,
    )
