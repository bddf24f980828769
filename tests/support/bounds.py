"""How far a kernel that works in float32 may be from the float64 reference, element by element.

To first order in u = 2^-24, the rounding unit of float32 (Higham, Accuracy and Stability of Numerical Algorithms,
chapter 3: a sum of n terms is off by at most n u times the sum of magnitudes, in any order). Where a relative error is
not small it is carried as expm1(error). Nothing here is tuned: each term is named.

Shapes: query [B, N, Sq, D], key and value repeated to N heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ascendspeed.ops import reference

_U = torch.finfo(torch.float32).eps / 2
_EXP_ULPS = 4  # the kernels' exp is within 2 ulp = 4 u
_KEYS_PER_STEP = 16  # at least as many keys per step of the online softmax; more steps mean more rounding


class Bound(NamedTuple):
    """Largest |error| allowed, element by element."""

    attention_out: Tensor
    softmax_max: Tensor
    softmax_sum: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor


def _rounded(value: Tensor, error: Tensor, dtype: torch.dtype) -> Tensor:
    """`error` plus rounding value +- error once to `dtype`."""
    if dtype == torch.float32:
        return error + _U * (value.abs() + error)
    info = torch.finfo(dtype)
    return error + info.eps / 2 * (value.abs() + error) + info.smallest_normal * info.eps / 2


def bounds(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    *,
    scale: float,
    mask: Tensor,
    keep: Tensor | None = None,
    keep_prob: float = 1.0,
) -> Bound:
    """Bounds for forward and backward of one problem; tensors as [B, N or Nkv, S, D] in the kernel's dtype."""
    dtype = query.dtype
    kv_heads = key.shape[1]
    group = query.shape[1] // kv_heads
    dropout = {"keep": keep, "keep_prob": keep_prob}
    exact = reference.attention(query, key, value, scale=scale, mask=mask, **dropout)
    gradients = reference.attention_grad(query, key, value, dy, scale=scale, mask=mask, **dropout)
    factor = 1.0 if keep is None else keep / keep_prob  # applied in float32: 1 / keep_prob and the product round
    q, k, v, dy = (t.double() for t in (query, key, value, dy))
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    depth, keys, v_dim = q.shape[-1], k.shape[-2], v.shape[-1]
    rows = q.shape[-2] * group
    visible = ~mask

    # A score: D products summed, then scaled.
    magnitude = abs(scale) * (q.abs() @ k.abs().transpose(-1, -2)) * visible
    score_error = (depth + 2) * _U * magnitude.amax(dim=-1, keepdim=True)
    # exp(score - max): errors of both scores, rounding of the subtraction, exp itself. The rescaling factors of the
    # online softmax multiply up to exp(total rise of the maximum), with one exp and one product per step.
    scores = scale * (q @ k.transpose(-1, -2))
    spread = (scores.abs() * visible).amax(dim=-1, keepdim=True) * 2
    steps = keys / _KEYS_PER_STEP + 1
    weight_error = torch.expm1(2 * score_error + 2 * _U * spread + (_EXP_ULPS + 2) * _U * (steps + 1))
    # Row sum and weighted sum run over the keys; the quotient has the error of both.
    sum_error = weight_error + keys * _U
    total_error = 2 * sum_error + 5 * _U
    out_scale = (exact.probabilities * factor) @ v.abs()
    out_error = total_error * out_scale

    # P in the backward: scores again, with the forward's max and sum.
    p = exact.probabilities
    p_error = weight_error + sum_error + (_EXP_ULPS + 3) * _U
    dp_scale = (dy.abs() @ v.abs().transpose(-1, -2)) * factor
    out_rounded = _rounded(exact.attention_out, out_error, dtype)
    delta_error = (dy.abs() * (out_rounded + (v_dim + 1) * _U * exact.attention_out.abs())).sum(dim=-1, keepdim=True)
    dp = (dy @ v.transpose(-1, -2)) * factor
    delta = (dy * exact.attention_out).sum(dim=-1, keepdim=True)
    ds = abs(scale) * p * (dp - delta).abs()
    ds_error = abs(scale) * p * ((v_dim + 4) * _U * dp_scale + delta_error) + ds * (p_error + 4 * _U)

    def over_group(t: Tensor) -> Tensor:
        return t.unflatten(1, (kv_heads, group)).sum(dim=2)

    dq_error = (ds_error + (keys + 2) * _U * ds) @ k.abs()
    dk_error = over_group((ds_error + (rows + 2) * _U * ds).transpose(-1, -2) @ q.abs())
    dv_error = over_group((p * factor * (p_error + (rows + 4) * _U)).transpose(-1, -2) @ dy.abs())
    finite_max = exact.softmax_max.clamp(min=-spread.squeeze(-1).clamp(min=1.0))  # -FLT_MAX of empty rows is exact
    return Bound(
        out_rounded,
        score_error.squeeze(-1) + 2 * _U * finite_max.abs(),
        sum_error.squeeze(-1) * exact.softmax_sum,
        *(_rounded(g, e, dtype) for g, e in zip(gradients, (dq_error, dk_error, dv_error), strict=True)),
    )
