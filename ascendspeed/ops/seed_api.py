"""The interface of the first AscendSpeed: FlashAttention, npu_flash_attention, npu_flash_attention_grad.

A thin layer on flash_attention_score for scripts that already call these names: sparse mode 0, pse type 1, BSH and
SBH only. New code calls flash_attention_score.
"""

import torch
from torch import Tensor, nn

from ascendspeed.ops.flash_attention import NO_LIMIT, flash_attention_score
from ascendspeed.ops.layout import count_probabilities
from ascendspeed.ops.library import gives_dpse

__all__ = ["FlashAttention", "npu_flash_attention", "npu_flash_attention_grad"]

_LAYOUTS = ("BSH", "SBH")


def npu_flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = NO_LIMIT,
    next_tockens: int = NO_LIMIT,
    gen_mask_parallel: bool = True,
    sync: bool = False,
) -> list[Tensor]:
    """The forward: [attention_out].

    Args:
        query, key, value: rank 3, [B, S, H] (BSH) or [S, B, H] (SBH); float16, bfloat16 or float32.
        head_num: heads of query; input_layout: BSH or SBH in any case.
        atten_mask, scale, keep_prob, pre_tockens, next_tockens, ...: as for `flash_attention_score`.

    Raises:
        ValueError, NotImplementedError: as `flash_attention_score`; also for a layout that is not BSH or SBH.

    keep_prob may be 0, which gives zeros.
    """
    _check_layout(input_layout)
    drop_mask = None
    if keep_prob == 0:  # legal here and nowhere else: everything is dropped, and nothing is divided by 0
        keep_prob, drop_mask = 1.0, _nothing_kept(query, key, head_num, input_layout)
    output = flash_attention_score(
        query,
        key,
        value,
        head_num,
        input_layout,
        pse=pse,
        padding_mask=padding_mask,
        atten_mask=atten_mask,
        drop_mask=drop_mask,
        scale=scale,
        keep_prob=keep_prob,
        pre_tockens=pre_tockens,
        next_tockens=next_tockens,
        gen_mask_parallel=gen_mask_parallel,
        sync=sync,
    )
    return [output.attention_out]


def npu_flash_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = NO_LIMIT,
    next_tockens: int = NO_LIMIT,
    gen_mask_parallel: bool = True,
    sync: bool = False,
) -> list[Tensor | None]:
    """The backward alone: 14 entries that mirror the arguments of `npu_flash_attention`.

    Entries 0, 1, 2 are dq, dk, dv (shapes and dtype of query, key, value), entry 5 is dpse; the others are None, and
    so is dpse without pse, and on an NPU, where CANN does not say what it is.

    Args:
        dy: gradient of attention_out, same shape and dtype as it.
        softmax_max, softmax_sum, attention_in: what the forward returned; required.
        softmax_in: reserved by CANN.
        The rest exactly as given to the forward; `scale_value` is its `scale`.

    Raises:
        ValueError: CANN 161001 for a missing softmax_max, softmax_sum or attention_in, else as the forward.
        NotImplementedError: as the forward; and for keep_prob between 0 and 1, because these arguments do not say which
            mask the forward had. FlashAttention's own backward knows it.
    """
    _check_layout(input_layout)
    drop_mask = None
    if keep_prob == 0:
        keep_prob, drop_mask = 1.0, _nothing_kept(query, key, head_num, input_layout)
    if keep_prob != 1:
        raise NotImplementedError(
            f"keep_prob={keep_prob}: npu_flash_attention_grad has no argument for the forward's dropout mask; "
            "differentiate through FlashAttention or flash_attention_score instead"
        )
    dq, dk, dv, dpse, *_ = torch.ops.ascendspeed.flash_attention_score_grad(
        query,
        key,
        value,
        dy,
        softmax_max,
        softmax_sum,
        softmax_in,
        attention_in,
        head_num,
        input_layout,
        pse=pse,
        padding_mask=padding_mask,
        atten_mask=atten_mask,
        drop_mask=drop_mask,
        scale=scale_value,
        keep_prob=keep_prob,
        pre_tockens=pre_tockens,
        next_tockens=next_tockens,
        gen_mask_parallel=gen_mask_parallel,
        sync=sync,
        needs_dpse=gives_dpse(pse),
    )
    return [dq, dk, dv, None, None, dpse if gives_dpse(pse) else None, *[None] * 8]


class FlashAttention(nn.Module):
    """`npu_flash_attention` as a module without parameters; its call returns attention_out itself."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        head_num: int,
        input_layout: str,
        pse: Tensor | None = None,
        padding_mask: Tensor | None = None,
        atten_mask: Tensor | None = None,
        scale: float = 1.0,
        keep_prob: float = 1.0,
        pre_tockens: int = NO_LIMIT,
        next_tockens: int = NO_LIMIT,
        gen_mask_parallel: bool = True,
        sync: bool = False,
    ) -> Tensor:
        """attention_out; arguments as `npu_flash_attention`."""
        (attention_out,) = npu_flash_attention(
            query, key, value, head_num, input_layout, pse, padding_mask, atten_mask, scale, keep_prob, pre_tockens,
            next_tockens, gen_mask_parallel, sync,
        )  # fmt: skip
        return attention_out


def _nothing_kept(query: Tensor, key: Tensor, head_num: int, input_layout: str) -> Tensor:
    return query.new_zeros((count_probabilities(query, key, head_num, input_layout) + 7) // 8, dtype=torch.uint8)


def _check_layout(input_layout: str) -> None:
    if input_layout.upper() not in _LAYOUTS:
        raise ValueError(f"input_layout={input_layout!r} is not one of BSH, SBH, which this interface takes [161002]")
