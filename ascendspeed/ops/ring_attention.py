"""npu_ring_attention_update: one attention result out of two over different keys, as torch_npu names it.

It merges results and no more: which rank holds which keys, and how they travel, is the caller's.

B batch, N query heads, S query length, T packed query length, D head size of value.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from ascendspeed.ops.layout import from_bnsd, to_bnsd

__all__ = ["npu_ring_attention_update"]

_LAYOUTS = ("SBH", "TND")
_SOFTMAX_LAYOUTS = ("", "SBH", "TND")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_STAT_LANES = 8
_FLT_MAX = torch.finfo(torch.float32).max


def npu_ring_attention_update(
    prev_attn_out: Tensor,
    prev_softmax_max: Tensor,
    prev_softmax_sum: Tensor,
    cur_attn_out: Tensor,
    cur_softmax_max: Tensor,
    cur_softmax_sum: Tensor,
    *,
    actual_seq_qlen: Tensor | None = None,
    input_layout: str = "SBH",
    input_softmax_layout: str = "",
) -> tuple[Tensor, Tensor, Tensor]:
    """What attention over both sets of keys gives, from attention over each: prev and cur.

        softmax_max = max(prev_softmax_max, cur_softmax_max)
        a = softmax_sum_of_part * exp(softmax_max_of_part - softmax_max)    for each of the two
        softmax_sum = a_prev + a_cur
        attn_out = prev_attn_out * (a_prev / softmax_sum) + cur_attn_out * (a_cur / softmax_sum)

    in float32. A row that saw no key in one part, (maximum, sum) = (-FLT_MAX, FLT_MAX), or that had none there,
    (0, 0), is the other part's unchanged; no key in either gives 0, -FLT_MAX, FLT_MAX. A sink is part of the softmax
    and may be given to one part only. Merging in any order gives the same result up to rounding.

    Args:
        prev_attn_out, cur_attn_out: [S, B, N*D] (SBH) or [T, N, D] (TND); float16, bfloat16 or float32, both alike.
        prev_softmax_max, prev_softmax_sum, cur_softmax_max, cur_softmax_sum: float32 [B, N, S, 8] (SBH) or [T, N, 8]
            (TND), as `flash_attention_score` returns them; of the 8 equal values the first is read.
        actual_seq_qlen: TND: int64 [batch elements + 1], where each element starts and the last one ends: it begins
            with 0, unlike the list of the attention call. Rows after its end are merged too. Required for TND, and
            read only when the statistics are not in the order [T, N, 8]. SBH: not read.
        input_layout: "SBH" or "TND".
        input_softmax_layout: order in memory of the statistics for TND: "TND" for [T, N, 8], which
            `flash_attention_score(softmax_layout="TND")` returns; "" or "SBH" for a block [N, S_b, 8] per batch
            element, its default. No effect for SBH.

    Returns:
        attn_out, softmax_max, softmax_sum: shapes, dtypes and order as the inputs.

    Raises:
        ValueError: CANN 161001, actual_seq_qlen missing for TND; 161002, a shape, dtype or value breaks a rule.
        NotImplementedError: on differentiating attn_out. The statistics of a part carry no gradient, so that of
            the merge would be wrong; the gradient is the sum of those of the parts, each from
            `npu_fusion_attention_grad` with the merged softmax_max, softmax_sum and attention_in.

    Source: torch_npu.npu_ring_attention_update; aclnnRingAttentionUpdateV2.
    """
    parts = (prev_attn_out, prev_softmax_max, prev_softmax_sum, cur_attn_out, cur_softmax_max, cur_softmax_sum)
    _check(parts, actual_seq_qlen, input_layout, input_softmax_layout)
    rows = None
    if input_layout == "TND" and input_softmax_layout != "TND":
        assert actual_seq_qlen is not None
        rows = _rows_in_memory(actual_seq_qlen, *prev_softmax_max.shape[:2])
    return _Merge.apply(rows, *parts)


class _Merge(torch.autograd.Function):
    """The merge, with a backward that refuses rather than leave out the gradient through the statistics."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor | None, *parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        prev_out, prev_max, prev_sum, cur_out, cur_max, cur_sum = parts
        stats = (prev_max[..., 0], prev_sum[..., 0], cur_max[..., 0], cur_sum[..., 0])
        prev_share, cur_share, softmax_max, softmax_sum = _shares(*stats)
        packed = prev_max.ndim == 3
        if not packed:
            prev_out, cur_out = (to_bnsd(out, "SBH", prev_max.shape[1]) for out in (prev_out, cur_out))
        elif rows is not None:
            prev_share, cur_share = prev_share.flatten()[rows], cur_share.flatten()[rows]
        merged = prev_out.float() * prev_share.unsqueeze(-1) + cur_out.float() * cur_share.unsqueeze(-1)
        merged = merged.to(prev_out.dtype)
        outputs = (merged if packed else from_bnsd(merged, "SBH"), _to_lanes(softmax_max), _to_lanes(softmax_sum))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple:
        raise NotImplementedError(
            "npu_ring_attention_update has no gradient: add up those of the parts, from npu_fusion_attention_grad with "
            "the merged softmax_max, softmax_sum and attention_in"
        )


def _shares(prev_max: Tensor, prev_sum: Tensor, cur_max: Tensor, cur_sum: Tensor) -> tuple[Tensor, ...]:
    """Factors of both outputs, merged maximum and merged sum, all of the statistics' shape."""
    softmax_max = torch.maximum(prev_max, cur_max)
    prev_weight = prev_sum * torch.exp(prev_max - softmax_max)
    cur_weight = cur_sum * torch.exp(cur_max - softmax_max)
    softmax_sum = prev_weight + cur_weight
    shares = [prev_weight / softmax_sum, cur_weight / softmax_sum]

    # The statistics of a row without keys are marks, not numbers. Where neither part saw any they would add up to
    # FLT_MAX + FLT_MAX; a sum of 0 would end in 0 / 0, and its maximum of 0 would push a true one below -87 to
    # exp() = 0. Had one part no keys and saw the other none of its own, the latter stands, as in one call over both.
    saw_none = [(m == -_FLT_MAX) & (total == _FLT_MAX) for m, total in ((prev_max, prev_sum), (cur_max, cur_sum))]
    take_cur = prev_sum == 0
    take_prev = ~take_cur & ((cur_sum == 0) | (saw_none[0] & saw_none[1]))
    one, zero = torch.ones_like(softmax_sum), torch.zeros_like(softmax_sum)

    def choose(merged: Tensor, prev: Tensor, cur: Tensor) -> Tensor:
        return torch.where(take_prev, prev, torch.where(take_cur, cur, merged))

    return (
        choose(shares[0], one, zero),
        choose(shares[1], zero, one),
        choose(softmax_max, prev_max, cur_max),
        choose(softmax_sum, prev_sum, cur_sum),
    )


def _to_lanes(stat: Tensor) -> Tensor:
    return stat.unsqueeze(-1).expand(*stat.shape, _STAT_LANES).contiguous()


def _rows_in_memory(starts: Tensor, tokens: int, heads: int) -> Tensor:
    """Where the statistics of (t, n) lie, int64 [T, N], counted in rows of 8, when each element is a block [N, S_b]."""
    values = starts.tolist()
    if values[:1] != [0] or any(a > b for a, b in itertools.pairwise(values)) or values[-1] > tokens:
        raise ValueError(
            f"actual_seq_qlen={values} does not start at 0 and rise to at most T={tokens} of prev_attn_out [161002]"
        )
    starts = torch.cat([starts, starts.new_tensor([tokens])])
    lengths = starts.diff()
    start, length = (t.repeat_interleave(lengths).unsqueeze(1) for t in (starts[:-1], lengths))
    token = torch.arange(tokens, device=starts.device).unsqueeze(1)
    return heads * start + torch.arange(heads, device=starts.device) * length + token - start


def _check(parts: tuple[Tensor, ...], starts: Tensor | None, input_layout: str, input_softmax_layout: str) -> None:
    if input_layout not in _LAYOUTS:
        raise ValueError(f"input_layout={input_layout!r} is not one of SBH, TND [161002]")
    if input_softmax_layout not in _SOFTMAX_LAYOUTS:
        raise ValueError(f"input_softmax_layout={input_softmax_layout!r} is not one of '', SBH, TND [161002]")
    out, stat, _, cur_out, *_ = parts
    if out.ndim != 3 or out.dtype not in _DTYPES:
        raise ValueError(
            f"prev_attn_out {_described(out)} is not of rank 3 and float16, bfloat16 or float32 "
            f"(layout {input_layout}) [161002]"
        )
    if (cur_out.shape, cur_out.dtype) != (out.shape, out.dtype):
        raise ValueError(f"cur_attn_out {_described(cur_out)} is not like prev_attn_out {_described(out)} [161002]")
    shape = list(out.shape[:2])
    if input_layout == "SBH":
        heads = stat.shape[1] if stat.ndim == 4 else 0
        if heads and out.shape[2] % heads:
            raise ValueError(
                f"N={heads} of prev_softmax_max does not divide H={out.shape[2]} of prev_attn_out [161002]"
            )
        shape = [shape[1], heads, shape[0]]
    shape.append(_STAT_LANES)
    names = ("prev_softmax_max", "prev_softmax_sum", "cur_softmax_max", "cur_softmax_sum")
    for name, tensor in zip(names, (*parts[1:3], *parts[4:]), strict=True):
        if list(tensor.shape) != shape or tensor.dtype != torch.float32:
            wanted = "[B, N, S, 8]" if input_layout == "SBH" else "[T, N, 8]"
            raise ValueError(
                f"{name} {_described(tensor)} is not float32 {wanted} for prev_attn_out {list(out.shape)} (layout "
                f"{input_layout}) [161002]"
            )
    if input_layout != "TND":
        return
    if starts is None:
        raise ValueError("actual_seq_qlen is None, input_layout TND needs it [161001]")
    if starts.ndim != 1 or starts.dtype != torch.int64:
        raise ValueError(f"actual_seq_qlen {_described(starts)} is not int64 of rank 1 [161002]")


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
