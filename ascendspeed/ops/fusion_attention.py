"""npu_fusion_attention and its relatives: torch_npu's names for the operator, on any device it has a kernel for.

A thin layer on flash_attention_score for scripts that call torch_npu: signatures and returns are those of torch_npu
2.14, whose first form spells pre_tockens and whose second spells pre_tokens. New code calls flash_attention_score.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ascendspeed.ops import dropout, library
from ascendspeed.ops.flash_attention import NO_LIMIT, choose_seed, flash_attention_score
from ascendspeed.ops.layout import count_probabilities

__all__ = [
    "_npu_dropout_gen_mask",
    "npu_fusion_attention",
    "npu_fusion_attention_grad",
    "npu_fusion_attention_grad_v2",
    "npu_fusion_attention_v2",
]

_Outputs = tuple[Tensor, Tensor, Tensor, Tensor, int, int, int]


def npu_fusion_attention(
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
    inner_precise: int = 0,
    prefix: Sequence[int] | None = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    seed: int = 0,
    offset: int = 0,
) -> _Outputs:
    """Attention with pse inside the scale (pse_type 1), as torch_npu.npu_fusion_attention.

    Differentiable in query, key, value, pse and sink.

    Args:
        dropout_mask: the `drop_mask` of `flash_attention_score`.
        seed, offset: without dropout_mask and with keep_prob < 1, what the mask is generated from; a seed is drawn from
            the default generator of query's device if both are 0. The mask is this package's, not a device's.
        The rest as `flash_attention_score` takes it.

    Returns:
        attention_out, softmax_max, softmax_sum, softmax_out: as `flash_attention_score`.
        seed, offset: what the applied mask was generated from; with dropout_mask, as given; 0 where nothing is dropped.
        numels: probabilities, the bits of a mask: N*B*Sq*Skv, or N*sum(Sq_b*Skv_b) for TND.

    Raises:
        ValueError, NotImplementedError: as `flash_attention_score`.
    """
    return _forward(
        query, key, value, head_num, input_layout, pse=pse, padding_mask=padding_mask, atten_mask=atten_mask,
        scale=scale, keep_prob=keep_prob, pre_tockens=pre_tockens, next_tockens=next_tockens,
        inner_precise=inner_precise, prefix=prefix, actual_seq_qlen=actual_seq_qlen, actual_seq_kvlen=actual_seq_kvlen,
        sparse_mode=sparse_mode, gen_mask_parallel=gen_mask_parallel, sync=sync, softmax_layout=softmax_layout,
        sink=sink, drop_mask=dropout_mask, seed=seed, offset=offset,
    )  # fmt: skip


def npu_fusion_attention_v2(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = NO_LIMIT,
    next_tokens: int = NO_LIMIT,
    inner_precise: int = 0,
    prefix: Sequence[int] | None = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    pse_type: int = 1,
    q_start_idx: Sequence[int] | None = None,
    kv_start_idx: Sequence[int] | None = None,
    softmax_layout: str = "",
    sink: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    seed: int = 0,
    offset: int = 0,
) -> _Outputs:
    """`npu_fusion_attention` with every pse_type and rope inputs, as torch_npu.npu_fusion_attention_v2.

    Differentiable in query_rope and key_rope too.

    Args:
        pre_tokens, next_tokens: the `pre_tockens`, `next_tockens` of `flash_attention_score`.
        The rest as `npu_fusion_attention` and `flash_attention_score` take it.

    Returns, Raises: as `npu_fusion_attention`.
    """
    return _forward(
        query, key, value, head_num, input_layout, pse=pse, padding_mask=padding_mask, atten_mask=atten_mask,
        query_rope=query_rope, key_rope=key_rope, scale=scale, keep_prob=keep_prob, pre_tockens=pre_tokens,
        next_tockens=next_tokens, inner_precise=inner_precise, prefix=prefix, actual_seq_qlen=actual_seq_qlen,
        actual_seq_kvlen=actual_seq_kvlen, sparse_mode=sparse_mode, gen_mask_parallel=gen_mask_parallel, sync=sync,
        pse_type=pse_type, q_start_idx=q_start_idx, kv_start_idx=kv_start_idx, softmax_layout=softmax_layout,
        sink=sink, drop_mask=dropout_mask, seed=seed, offset=offset,
    )  # fmt: skip


def npu_fusion_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
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
    inner_precise: int = 0,
    seed: int = 0,
    offset: int = 0,
    numels: int = 0,
    prefix: Sequence[int] | None = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    softmax_layout: str = "",
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """The backward of `npu_fusion_attention` alone: dq, dk, dv, dpse, dsink.

    For parts of a ring it is called with the statistics and the output of the whole; the gradients then add up.

    Args:
        dy: gradient of attention_out, same shape and dtype as it.
        softmax_max, softmax_sum, attention_in: what the forward returned; required.
        softmax_in: reserved by CANN.
        seed, offset: what the forward returned; with keep_prob < 1 the same mask is generated from them.
        numels: what the forward returned, or 0 to leave it unchecked.
        The rest exactly as given to the forward; `scale_value` is its `scale`.

    Returns:
        dq, dk, dv: shapes and dtype of query, key, value.
        dpse: shape and dtype of pse; None without pse, and on an NPU, where CANN does not say what it is.
        dsink: float32 [N]; empty without sink.

    Raises:
        ValueError: CANN 161001 for a missing softmax_max, softmax_sum or attention_in, else as the forward; 161002
            for another numels than the forward's.
        NotImplementedError: as the forward; and for keep_prob below 1 with seed and offset 0, because no argument says
            which dropout_mask the forward had. A forward with both a dropout_mask and the seed it was generated from is
            met by that seed.
    """
    dq, dk, dv, dpse, dsink, *_ = _backward(
        query, key, value, dy, (softmax_max, softmax_sum, softmax_in, attention_in), head_num, input_layout,
        caller="npu_fusion_attention_grad", numels=numels, pse=pse, padding_mask=padding_mask, atten_mask=atten_mask,
        scale=scale_value, keep_prob=keep_prob, pre_tockens=pre_tockens, next_tockens=next_tockens,
        inner_precise=inner_precise, seed=seed, offset=offset, prefix=prefix, actual_seq_qlen=actual_seq_qlen,
        actual_seq_kvlen=actual_seq_kvlen, sparse_mode=sparse_mode, gen_mask_parallel=gen_mask_parallel, sync=sync,
        softmax_layout=softmax_layout, sink=sink, pse_type=1,
    )  # fmt: skip
    return dq, dk, dv, dpse, dsink


def npu_fusion_attention_grad_v2(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = NO_LIMIT,
    next_tokens: int = NO_LIMIT,
    inner_precise: int = 0,
    seed: int = 0,
    offset: int = 0,
    numels: int = 0,
    prefix: Sequence[int] | None = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    pse_type: int = 1,
    q_start_idx: Sequence[int] | None = None,
    kv_start_idx: Sequence[int] | None = None,
    softmax_layout: str = "",
    sink: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """The backward of `npu_fusion_attention_v2` alone: dq, dk, dv, dpse, dq_rope, dk_rope, dsink.

    Args: as `npu_fusion_attention_grad` and `npu_fusion_attention_v2`.

    Returns:
        As `npu_fusion_attention_grad`, and dq_rope, dk_rope: shapes and dtype of the rope inputs, empty without them.
        dpse is None for the slopes of pse_type 2 and 3 also, which have no gradient.

    Raises: as `npu_fusion_attention_grad`.
    """
    dq, dk, dv, dpse, dsink, dq_rope, dk_rope = _backward(
        query, key, value, dy, (softmax_max, softmax_sum, softmax_in, attention_in), head_num, input_layout,
        caller="npu_fusion_attention_grad_v2", numels=numels, pse=pse, padding_mask=padding_mask,
        atten_mask=atten_mask, query_rope=query_rope, key_rope=key_rope, scale=scale_value, keep_prob=keep_prob,
        pre_tockens=pre_tokens, next_tockens=next_tokens, inner_precise=inner_precise, seed=seed, offset=offset,
        prefix=prefix, actual_seq_qlen=actual_seq_qlen, actual_seq_kvlen=actual_seq_kvlen, sparse_mode=sparse_mode,
        gen_mask_parallel=gen_mask_parallel, sync=sync, pse_type=pse_type, q_start_idx=q_start_idx,
        kv_start_idx=kv_start_idx, softmax_layout=softmax_layout, sink=sink,
    )  # fmt: skip
    return dq, dk, dv, dpse, dq_rope, dk_rope, dsink


def _npu_dropout_gen_mask(
    self: Tensor,
    size: Sequence[int],
    p: float,
    seed: int,
    offset: int,
    *,
    parallel: bool | None = True,
    sync: bool | None = None,
) -> Tensor:
    """The dropout_mask that the attention functions generate from seed and offset; p is the probability of a 0.

    Args:
        self: any tensor on the wanted device.
        size: shape of what is dropped from, prod(size) probabilities; [numels] for attention.
        p: probability of dropping, 1 - keep_prob, in [0, 1].
        seed, offset: as `dropout_gen_mask`.
        parallel, sync: which stream a device makes the mask on; they never change a bit.

    Returns:
        uint8 [ceil(prod(size) / 128) * 16], the layout of `dropout_gen_mask`.

    Raises:
        ValueError: CANN 161002, p is out of range.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} is not in [0, 1] [161002]")
    if p == 1:  # dropout_gen_mask draws from (0, 1], as a keep_prob that divides must
        return torch.zeros_like(dropout.dropout_gen_mask(self, math.prod(size), 1.0, seed, offset))
    return dropout.dropout_gen_mask(self, math.prod(size), 1 - p, seed, offset)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, **attributes: Any
) -> _Outputs:
    if attributes["drop_mask"] is None and attributes["keep_prob"] == 1:
        attributes["seed"] = attributes["offset"] = 0
    # Chosen here, because it is returned.
    check = partial(library.check_forward, query, key, value, head_num, input_layout, **attributes)
    attributes["seed"] = choose_seed(
        query, attributes["drop_mask"], attributes["keep_prob"], attributes["seed"], attributes["offset"], check
    )
    output = flash_attention_score(query, key, value, head_num, input_layout, **attributes)
    numels = _numels(query, key, head_num, input_layout, attributes)
    return (*output, attributes["seed"], attributes["offset"], numels)


def _backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    stats: tuple[Tensor | None, ...],
    head_num: int,
    input_layout: str,
    *,
    caller: str,
    numels: int,
    **attributes: Any,
) -> tuple[Any, ...]:
    """dq, dk, dv, dpse, dsink, dq_rope, dk_rope; dpse is None where there is none."""
    keep_prob = attributes["keep_prob"]
    if 0 < keep_prob < 1 and not attributes["seed"] and not attributes["offset"]:
        raise NotImplementedError(
            f"keep_prob={keep_prob}, seed=0, offset=0: {caller} has no argument for the forward's dropout_mask; pass "
            "the seed and offset that the forward returned, or differentiate through the forward"
        )
    needs_dpse = library.gives_dpse(attributes["pse"]) and attributes["pse_type"] in (0, 1)
    dq, dk, dv, dpse, *rest = torch.ops.ascendspeed.flash_attention_score_grad(
        query, key, value, dy, *stats, head_num, input_layout, **attributes, needs_dpse=needs_dpse
    )
    # After the operator, whose rules have by now found the shapes to be legal.
    if numels not in (0, expected := _numels(query, key, head_num, input_layout, attributes)):
        raise ValueError(f"numels={numels} is not {expected}, the probabilities that this forward had [161002]")
    return dq, dk, dv, dpse if needs_dpse else None, *rest


def _numels(query: Tensor, key: Tensor, head_num: int, input_layout: str, attributes: dict[str, Any]) -> int:
    ends = (attributes["actual_seq_qlen"], attributes["actual_seq_kvlen"])
    return count_probabilities(query, key, head_num, input_layout, *ends)
