"""input_layout in Python: where batch, heads, length and head size are in a shape.

For shapes only, symbolic ones included; csrc/attention/layout.cpp decides what is legal.

B batch, N query heads, Nkv key/value heads, S length, D and Dv head sizes, H = N * D.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["batch_and_length", "count_probabilities", "from_bnsd", "output_shape", "stats_shape", "to_bnsd"]

# Dimension of batch and of length. Heads lie in dimension `heads`, or side by side in the last one (None).
_DIMS = {"BSH": (0, 1, None), "SBH": (1, 0, None), "BSND": (0, 1, 2), "BNSD": (0, 2, 1)}
_PACKED = "TND"  # no batch dimension: lengths come beside the tensors
_STAT_LANES = 8


def _dims(input_layout: str) -> tuple[int, int, int | None]:
    try:
        return _DIMS[input_layout.upper()]
    except KeyError:
        raise ValueError(f"input_layout={input_layout!r} is not one of {', '.join(_DIMS)} [161002]") from None


def batch_and_length(tensor: Tensor, input_layout: str) -> tuple[Any, Any]:
    """B and S of a tensor in `input_layout`, which has a batch dimension."""
    batch, length, _ = _dims(input_layout)
    return tensor.shape[batch], tensor.shape[length]


def output_shape(query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str) -> list[Any]:
    """Shape of attention_out: query's, with heads of size Dv."""
    shape = list(query.shape)
    if input_layout.upper() == _PACKED or _dims(input_layout)[2] is not None:
        shape[-1] = value.shape[-1]
    elif query.shape[-1] == 0 or key.shape[-1] == 0:
        shape[-1] = 0
    else:
        kv_heads = key.shape[-1] // (query.shape[-1] // head_num)
        shape[-1] = head_num * (value.shape[-1] // kv_heads)
    return shape


def stats_shape(query: Tensor, head_num: int, input_layout: str) -> list[Any]:
    """Shape of softmax_max and softmax_sum: [B, N, Sq, 8], for TND [T, N, 8]."""
    if input_layout.upper() == _PACKED:
        return [query.shape[0], head_num, _STAT_LANES]
    batch, length = batch_and_length(query, input_layout)
    return [batch, head_num, length, _STAT_LANES]


def count_probabilities(
    query: Tensor,
    key: Tensor,
    head_num: int,
    input_layout: str,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
) -> Any:
    """How many entries the softmax of a legal call has, B*N*Sq*Skv or N*sum(Sq*Skv): the bits of a dropout mask."""
    if input_layout.upper() == _PACKED:
        assert actual_seq_qlen is not None
        assert actual_seq_kvlen is not None
        q_lens, kv_lens = (
            [max(0, end - begin) for begin, end in itertools.pairwise([0, *ends])]
            for ends in (actual_seq_qlen, actual_seq_kvlen)
        )
        return head_num * sum(q_len * kv_len for q_len, kv_len in zip(q_lens, kv_lens, strict=True))
    batch, q_len = batch_and_length(query, input_layout)
    return batch * head_num * q_len * batch_and_length(key, input_layout)[1]


def to_bnsd(tensor: Tensor, input_layout: str, heads: int) -> Tensor:
    """A view of `tensor` as [B, N, S, D] (a copy where H cannot be split in place)."""
    batch, length, head = _dims(input_layout)
    if head is None:
        tensor = tensor.unflatten(-1, (heads, tensor.shape[-1] // heads if heads else 0))
        head = 2
    return tensor.permute(batch, head, length, 3)


def from_bnsd(tensor: Tensor, input_layout: str) -> Tensor:
    """The inverse of `to_bnsd`, contiguous."""
    batch, length, head = _dims(input_layout)
    order = {batch: 0, 2 if head is None else head: 1, length: 2}
    tensor = tensor.permute([order[i] for i in range(3)] + [3])
    return tensor.flatten(2).contiguous() if head is None else tensor.contiguous()
