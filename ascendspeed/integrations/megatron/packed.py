"""Where the documents of a packed batch end: from Megatron's PackedSeqParams to the operator's lists, on the host.

Megatron's cu_seqlens begin with 0 and may repeat a number (an empty document, or a list of fixed size); the operator's
actual_seq lists do neither. Documents that are padded apart become documents of their own in between: their rows
attend to nothing but padding, and nothing but padding attends to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

__all__ = ["Documents", "cu_seqlens_of", "documents_of"]


@dataclass(frozen=True)
class Documents:
    """Cumulative lengths of the documents of a packed batch, without a leading 0 and without empty documents.

    is_padding: which of them are padding between documents; None when none is.
    """

    query_ends: tuple[int, ...]
    key_ends: tuple[int, ...]
    is_padding: tuple[bool, ...] | None = None

    @property
    def query_lengths(self) -> tuple[int, ...]:
        return tuple(end - start for start, end in pairwise((0, *self.query_ends)))

    @property
    def key_lengths(self) -> tuple[int, ...]:
        return tuple(end - start for start, end in pairwise((0, *self.key_ends)))


def cu_seqlens_of(packed_seq_params: PackedSeqParams) -> tuple[Tensor | None, ...]:
    """The tensors that `documents_of` reads: what a plan that is kept has to be compared by."""
    p = packed_seq_params
    return p.cu_seqlens_q, p.cu_seqlens_kv, p.cu_seqlens_q_padded, p.cu_seqlens_kv_padded


def documents_of(packed_seq_params: PackedSeqParams, query_total: int, key_total: int) -> Documents:
    """Read the lengths. Tensors on the CPU cost nothing; on a device each read waits for the device.

    Args:
        packed_seq_params: qkv_format "thd"; cu_seqlens_q and cu_seqlens_kv [documents + 1] integers from 0 to the
            number of tokens, and with cu_seqlens_*_padded the places at which the documents begin.
        query_total, key_total: tokens in query and key.

    Raises:
        ValueError: qkv_format or a list breaks a rule; the message names the field.
        NotImplementedError: the batch is split among context-parallel ranks.
    """
    p = packed_seq_params
    if p.qkv_format != "thd":
        raise ValueError(f"packed_seq_params.qkv_format={p.qkv_format!r} is not 'thd', the packed format")
    ranks = getattr(p, "local_cp_size", None)  # not in every megatron-core
    if ranks is not None and ranks > 1:
        raise NotImplementedError(f"packed_seq_params.local_cp_size={ranks} is not supported yet; it must be 1")
    query = _spans("q", p.cu_seqlens_q, p.cu_seqlens_q_padded, query_total)
    same = p.cu_seqlens_kv is p.cu_seqlens_q and p.cu_seqlens_kv_padded is p.cu_seqlens_q_padded
    key = (
        query if same and key_total == query_total else _spans("kv", p.cu_seqlens_kv, p.cu_seqlens_kv_padded, key_total)
    )
    if len(query) != len(key):
        raise ValueError(
            f"packed_seq_params has {len(query)} documents in cu_seqlens_q, but {len(key)} in cu_seqlens_kv"
        )
    query_ends, key_ends, padding = [0], [0], []
    for (q_length, q_gap), (kv_length, kv_gap) in zip(query, key, strict=True):
        for q, kv, is_gap in ((q_length, kv_length, False), (q_gap, kv_gap, True)):
            if q or kv:
                query_ends.append(query_ends[-1] + q)
                key_ends.append(key_ends[-1] + kv)
                padding.append(is_gap)
    return Documents(tuple(query_ends[1:]), tuple(key_ends[1:]), tuple(padding) if any(padding) else None)


def _spans(which: str, cu_seqlens: Tensor | None, padded: Tensor | None, total: int) -> list[tuple[int, int]]:
    """(tokens, padding after them) of every document."""
    name = f"packed_seq_params.cu_seqlens_{which}"
    ends = _checked(name, cu_seqlens)
    lengths = [end - start for start, end in pairwise(ends)]
    if padded is None:
        places, room = ends, lengths
    else:
        name += "_padded"
        places = _checked(name, padded)
        room = [end - start for start, end in pairwise(places)]
        if len(room) != len(lengths):
            raise ValueError(f"{name} has {len(room)} documents, cu_seqlens_{which} has {len(lengths)}")
        for number, (tokens, place) in enumerate(zip(lengths, room, strict=True)):
            if tokens > place:
                raise ValueError(f"{name} has room for {place} tokens of document {number}, which has {tokens}")
    if places[-1] != total:
        raise ValueError(f"{name} ends at {places[-1]}, but {'query' if which == 'q' else 'key'} has {total} tokens")
    return [(tokens, place - tokens) for tokens, place in zip(lengths, room, strict=True)]


def _checked(name: str, cu_seqlens: Tensor | None) -> list[int]:
    if cu_seqlens is None:
        raise ValueError(f"{name} is None; a packed batch needs it")
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"{name} has shape {list(cu_seqlens.shape)}; it must be [documents + 1]")
    ends: list[int] = cu_seqlens.tolist()
    if ends[0] != 0:
        raise ValueError(f"{name} begins with {ends[0]}; it must begin with 0")
    for number, (start, end) in enumerate(pairwise(ends)):
        if end < start:
            raise ValueError(f"{name} falls from {start} to {end} at document {number}")
    return ends
