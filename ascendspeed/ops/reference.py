"""The dense float64 reference: the operator's formula in plain PyTorch, forward and backward.

The truth every kernel is tested against. It states masks and formulas again on purpose and imports nothing of ours:
comparing a rule with itself would prove nothing. Only tests, benchmarks, start-up checks and docs may import it.

B batch, N query heads, Nkv key/value heads, Sq/Skv lengths, D and Dv head sizes; off = Skv - Sq.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Forward", "Gradients", "attention", "attention_grad", "excluded", "kept", "position_shift"]

_FLT_MAX = torch.finfo(torch.float32).max


class Forward(NamedTuple):
    """Outputs in float64, [B, N, Sq, Dv] and [B, N, Sq], and the probabilities [B, N, Sq, Skv]."""

    attention_out: Tensor
    softmax_max: Tensor
    softmax_sum: Tensor
    probabilities: Tensor


def excluded(
    batch: int,
    heads: int,
    q_len: int,
    kv_len: int,
    *,
    atten_mask: Tensor | None = None,
    sparse_mode: int = 0,
    pre_tockens: int = 2147483647,
    next_tockens: int = 2147483647,
    prefix: list[int] | None = None,
    band_element: bool = False,
) -> Tensor:
    """Positions that take no part, bool [B, N, Sq, Skv]: the table of sparse modes, position by position.

    A packed batch is one call per batch element, with B = 1. Modes 7 and 8 exist only there; `band_element` says
    whether this is the one element that has the band: the last (7) or the first (8) with queries.
    """
    shape = (batch, heads, q_len, kv_len)
    if atten_mask is None:
        return torch.zeros(shape, dtype=torch.bool)
    i = torch.arange(q_len).view(q_len, 1)
    j = torch.arange(kv_len).view(1, kv_len)
    off = kv_len - q_len
    if sparse_mode in (0, 1, 5):
        out = atten_mask.to(torch.bool).cpu().expand(shape)
        return out | (j < i - pre_tockens) | (j > i + next_tockens) if sparse_mode == 0 else out
    if sparse_mode == 2 or (sparse_mode == 8 and not band_element):
        out = j > i
    elif sparse_mode == 3 or (sparse_mode == 7 and not band_element):
        out = j > i + off
    elif sparse_mode in (4, 7, 8):
        out = (j < i + off - pre_tockens) | (j > i + off + next_tockens)
    elif sparse_mode == 6:
        assert prefix is not None
        lengths = torch.tensor(prefix).view(batch, 1, 1, 1)
        out = (j >= lengths) & (j > i + off)
    else:
        raise ValueError(f"sparse_mode={sparse_mode} is not in the reference")
    return out.expand(shape)


def kept(drop_mask: Tensor, batch: int, heads: int, q_len: int, kv_len: int, *, first: int = 0) -> Tensor:
    """The bits of a packed mask, bool [B, N, Sq, Skv]: bit e % 8 of byte e // 8, least significant first.

    first: number e of the first bit; in a packed batch the sum of N * Sq * Skv over the elements before this one.
    """
    bits = (drop_mask.view(-1, 1) >> torch.arange(8, dtype=torch.uint8)) & 1
    count = batch * heads * q_len * kv_len
    return bits.flatten()[first : first + count].view(batch, heads, q_len, kv_len).bool()


def position_shift(
    pse: Tensor | None,
    pse_type: int,
    batch: int,
    heads: int,
    q_len: int,
    kv_len: int,
    *,
    q_start: int = 0,
    kv_start: int = 0,
) -> Tensor | None:
    """What is added to the scores, float64 [B, N, Sq, Skv]: inside the scale for pse_type 1, outside for the others."""
    if pse is None:
        return None
    i = torch.arange(q_len).view(q_len, 1)
    j = torch.arange(kv_len).view(1, kv_len)
    if pse_type in (2, 3):
        distance = (j + kv_start - i - q_start).abs().double()
        slopes = pse.double().expand(batch, heads).view(batch, heads, 1, 1)
        return -slopes * (distance if pse_type == 2 else distance.sqrt())
    if pse.shape[2] == 1024 and q_len > 1024:  # the last rows of a function of i - j, of which j <= i is meant
        by_distance = pse[:, :, 0].double().flip(-1)[..., 1023:]  # [distance]: row 0 is query row Sq - 1024
        last = pse[:, :, -1].double().flip(-1)  # row Sq - 1, every distance up to Sq - 1
        assert torch.equal(by_distance, last[..., : by_distance.shape[-1]]), "not a function of i - j"
        return last[..., (i - j).clamp(min=0)].expand(batch, heads, q_len, kv_len)
    return pse.double().expand(batch, heads, q_len, kv_len)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    mask: Tensor,
    shift: Tensor | None = None,
    shift_in_scale: bool = True,
    sink: Tensor | None = None,
    keep: Tensor | None = None,
    keep_prob: float = 1.0,
) -> Forward:
    """P = softmax(scale * (Q K^T + shift) where not excluded), Y = (P * keep / keep_prob) V.

    Args:
        query: [B, N, Sq, D]; key: [B, Nkv, Skv, D]; value: [B, Nkv, Skv, Dv]; any dtype, taken to float64.
        scale: factor on Q K^T.
        mask: bool [B, N, Sq, Skv] from `excluded`.
        shift, shift_in_scale: from `position_shift`; inside the scale for pse_type 1, else outside.
        sink: [N], None = none.
        keep: bool [B, N, Sq, Skv] from `kept`, None = no dropout. softmax_sum and probabilities are those before it.

    A row with no visible key has output 0, maximum -FLT_MAX and sum FLT_MAX, and so has one whose scores are all -inf.
    """
    group = query.shape[1] // key.shape[1]
    key, value = (t.double().repeat_interleave(group, dim=1) for t in (key, value))
    scores = query.double() @ key.transpose(-1, -2)
    if shift is not None and shift_in_scale:
        scores = scores + shift
    scores = scale * scores
    if shift is not None and not shift_in_scale:
        scores = scores + shift
    scores = scores.masked_fill(mask, -torch.inf)
    empty = (scores == -torch.inf).all(dim=-1)
    maximum = scores.amax(dim=-1)
    if sink is not None:  # one more score, which no mask excludes and no value follows
        logit = sink.double().view(1, -1, 1)
        maximum = torch.maximum(maximum, logit)
        empty = empty & (logit == -torch.inf)
    maximum = maximum.masked_fill(empty, 0.0)
    weights = torch.exp(scores - maximum.unsqueeze(-1))
    weights = weights.masked_fill(mask, 0.0)
    total = weights.sum(dim=-1).masked_fill(empty, 1.0)
    if sink is not None:
        total = total + torch.exp(logit - maximum)
    probabilities = weights / total.unsqueeze(-1)
    dropped = probabilities if keep is None else probabilities * keep / keep_prob
    return Forward(
        dropped @ value,
        maximum.masked_fill(empty, -_FLT_MAX),
        total.masked_fill(empty, _FLT_MAX),
        probabilities,
    )


class Gradients(NamedTuple):
    """Gradients in float64, shapes as query, key, value; `ds` of the scores [B, N, Sq, Skv]; `dsink` [N] or None."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    ds: Tensor
    dsink: Tensor | None


def attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    *,
    scale: float,
    mask: Tensor,
    forward: Forward | None = None,
    **problem: Any,
) -> Gradients:
    """The specification's backward, term by term; keywords as `attention`.

    `ds` is the gradient of what the softmax sees: that of a shift is `scale * ds` inside the scale and `ds` outside.
    forward: what `attention` gave for the same arguments, so as not to compute it twice; None computes it.
    """
    if forward is None:
        forward = attention(query, key, value, scale=scale, mask=mask, **problem)
    sink, keep, keep_prob = problem.get("sink"), problem.get("keep"), problem.get("keep_prob", 1.0)
    kv_heads = key.shape[1]
    group = query.shape[1] // kv_heads
    query, key, value, dy = (t.double() for t in (query, key, value, dy))
    key_n, value_n = (t.repeat_interleave(group, dim=1) for t in (key, value))
    p = forward.probabilities
    factor = torch.ones(()).double() if keep is None else keep.double() / keep_prob
    dv = (p * factor).transpose(-1, -2) @ dy
    dp = (dy @ value_n.transpose(-1, -2)) * factor
    delta = (dy * forward.attention_out).sum(dim=-1, keepdim=True)
    ds = p * (dp - delta)
    dq = scale * ds @ key_n
    dk = scale * ds.transpose(-1, -2) @ query
    dsink = None
    if sink is not None:
        weight = torch.exp(sink.double().view(1, -1, 1) - forward.softmax_max) / forward.softmax_sum
        dsink = -(weight * delta.squeeze(-1)).sum(dim=(0, 2))

    def over_group(t: Tensor) -> Tensor:
        return t.unflatten(1, (kv_heads, group)).sum(dim=2)

    return Gradients(dq, over_group(dk), over_group(dv), ds, dsink)
