"""The small cases of the attention contract, and what Megatron's words mean in them, stated without our mask table.

`masks` says how the operator is asked; here it is said, element by element, what the answer has to be.

# B batch, N query heads and G key/value groups of this rank, D head size, S Sq/Skv length, off = Skv - Sq
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.masks import MappingRow

__all__ = [
    "ContractCase",
    "alibi_by_paper",
    "cases",
    "dtype_of",
    "excluded_by_megatron",
    "excluded_in_documents",
    "packed_params",
    "reaches_the_edges",
]

Lengths = tuple[tuple[int, int], ...]

LENGTH = 40
BATCH = 3
MOST_SCORES = 2**20  # per head; a window too wide for a case of this size is checked inside its edges only


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
    if window_size is None and (kind == "padding_causal" or (kind == "causal" and attention_mask is None)):
        out = out | (j > i)
    if kind == "causal_bottom_right":
        out = out | (j > i + off)
    return out if attention_mask is None else out | attention_mask.cpu()


def excluded_in_documents(
    kind: str, lengths: Tensor | None, window_size: tuple[int, int] | None, documents: Lengths
) -> Tensor:
    """As `excluded_by_megatron` for a packed batch, bool [1, 1, Tq, Tkv]: each document by itself, no other is seen.

    documents: (queries, keys) of each. lengths: of the prefixes, one for each document.
    """
    out = torch.ones(1, 1, sum(q for q, _ in documents), sum(kv for _, kv in documents), dtype=torch.bool)
    row = column = 0
    for number, (queries, keys) in enumerate(documents):
        own = None if lengths is None else lengths[number : number + 1]
        inside = excluded_by_megatron(kind, own, window_size, queries, keys)
        out[:, :, row : row + queries, column : column + keys] = inside
        row, column = row + queries, column + keys
    return out


def alibi_by_paper(heads: int) -> list[float]:
    """The slopes as Press, Smith and Lewis give them: a geometric series from 2 ** (-8 / n) with that as its ratio."""
    power = 2 ** (len(bin(heads)) - 3)
    series = [(2.0 ** (-8.0 / power)) ** k for k in range(1, power + 1)]
    return series if power == heads else (series + alibi_by_paper(2 * power)[0::2])[:heads]


def packed_params(documents: Lengths) -> PackedSeqParams:
    """What Megatron hands to its layers for documents of these (queries, keys)."""
    queries, keys = (
        torch.tensor([0, *accumulate(length)], dtype=torch.int32) for length in zip(*documents, strict=True)
    )
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=queries,
        cu_seqlens_kv=keys,
        max_seqlen_q=max(q for q, _ in documents),
        max_seqlen_kv=max(kv for _, kv in documents),
    )


@dataclass(frozen=True)
class ContractCase:
    """Inputs in Megatron's [s, b, n, d], the mask they are called with, and what that has to mean.

    A packed case has b = 1 and its documents' (queries, keys); slopes are those of ALiBi.
    """

    name: str
    query: Tensor
    key: Tensor
    value: Tensor
    attention_mask: Tensor | None
    documents: Lengths | None
    excluded: Tensor
    shift: Tensor | None

    @property
    def packed_seq_params(self) -> PackedSeqParams | None:
        return None if self.documents is None else packed_params(self.documents)


def cases(attention: AscendDotProductAttention, row: MappingRow, device: torch.device) -> Iterator[ContractCase]:
    """First random numbers: head order, scale, gradients. Then probes, which read the mask exactly.

    In a probe all scores are 0, so every seen key weighs the same (with ALiBi: more than 0), and the columns of the
    values are the unit vectors of some keys: an output is zero if and only if its query does not see its key. No
    rounding hides a single key.
    """
    generator = torch.Generator().manual_seed(20260)
    documents = _documents(row, attention) if row.packed else None
    query_length, key_length = _lengths(row.kind, attention)
    batch = BATCH
    if documents is not None:
        query_length, key_length = (sum(lengths) for lengths in zip(*documents, strict=True))
        batch = 1
    heads, size = attention.heads, attention.head_size
    mask = _sample_mask(row, documents, query_length, key_length, generator)
    if documents is not None:
        excluded = excluded_in_documents(row.kind, mask, attention.window_size, documents)
    else:
        excluded = excluded_by_megatron(row.kind, mask, attention.window_size, query_length, key_length)
    excluded = excluded.expand(batch, heads.head_num, query_length, key_length)
    query, key, value = (
        torch.randn(length, batch, n, size, generator=generator).to(device, dtype_of(attention))
        for length, n in (
            (query_length, heads.head_num),
            (key_length, heads.query_groups),
            (key_length, heads.query_groups),
        )
    )
    mask = None if mask is None else mask.to(device)
    meaning = (mask, documents, excluded, _shift(attention, query_length, key_length, documents))
    yield ContractCase("random", query, key, value, *meaning)
    if attention.dropout > 0:
        yield ContractCase("dropout", query, key, value, *meaning)
    edges = torch.arange(key_length)
    for keys in (edges if key_length <= 128 else torch.cat([edges[:48], edges[-48:]])).split(size):
        unit = torch.zeros_like(value)
        unit[keys, :, :, torch.arange(len(keys))] = 1.0
        yield ContractCase("probe", torch.zeros_like(query), key, unit, *meaning)


def dtype_of(attention: AscendDotProductAttention) -> torch.dtype:
    """What query, key and value of the layer are in training."""
    config = attention.config
    dtype: torch.dtype = torch.bfloat16 if config.bf16 else torch.float16 if config.fp16 else config.params_dtype
    return dtype


def reaches_the_edges(attention: AscendDotProductAttention) -> bool:
    """Whether the cases have queries on both sides of both edges of the layer's window; true without a window."""
    return attention.window_size is None or _across(attention) is not None


def _documents(row: MappingRow, attention: AscendDotProductAttention) -> Lengths:
    """A long document that shows the row's rule between short ones, one of them a single token."""
    long = _lengths(row.kind, attention)
    return ((5, 5), (1, 1), long, (7, 7))


def _lengths(kind: str, attention: AscendDotProductAttention) -> tuple[int, int]:
    unlike = kind == "causal_bottom_right" and attention.slopes is None
    return _across(attention) or (LENGTH, LENGTH + 8 if unlike else LENGTH)


def _across(attention: AscendDotProductAttention) -> tuple[int, int] | None:
    """Lengths with queries on both sides of both edges of the window; None if they would make too large a case.

    ALiBi needs as many queries as keys, and few: far keys would weigh less than the smallest number.
    """
    if attention.window_size is None:
        return None
    left, right = (max(0, side) for side in attention.window_size)
    query_length, key_length = right + 16, right + left + 24
    if attention.slopes is not None:
        return (LENGTH, LENGTH) if key_length <= LENGTH else None
    return (query_length, key_length) if query_length * key_length <= MOST_SCORES else None


def _sample_mask(
    row: MappingRow, documents: Lengths | None, query_length: int, key_length: int, generator: torch.Generator
) -> Tensor | None:
    if row.given == "nothing":
        return None
    if row.given == "lengths" and documents is not None:
        return torch.tensor([(number * kv // 3) if kv > 1 else 0 for number, (_, kv) in enumerate(documents)])
    if row.given == "lengths":
        return torch.tensor([0, key_length // 3, key_length])[:BATCH]
    mask = torch.rand(BATCH, 1, query_length, key_length, generator=generator) < 0.4
    mask.diagonal(dim1=-2, dim2=-1).fill_(False)  # every query sees a key: rows without one are the operator's tests'
    return mask


def _shift(
    attention: AscendDotProductAttention, query_length: int, key_length: int, documents: Lengths | None
) -> Tensor | None:
    """What ALiBi adds to the scaled scores, float64 [1, N, Sq, Skv], or None. Positions are those in the document."""
    if attention.slopes is None:
        return None
    n = attention.heads.head_num
    own = slice(attention.first_head, attention.first_head + n)
    slopes = torch.tensor(alibi_by_paper(attention.config.num_attention_heads)[own]).double()
    spans = documents or ((query_length, key_length),)
    i, j = (torch.cat([torch.arange(length) for length in lengths]) for lengths in zip(*spans, strict=True))
    return -slopes.view(1, n, 1, 1) * (j.view(1, -1) - i.view(-1, 1)).abs().double()
