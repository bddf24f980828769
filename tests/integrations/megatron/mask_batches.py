"""The masks of the agreement tests' micro-batches: as our model is given them, and as the dense mask they stand for.

Dense masks are stated here position by position and share nothing with the code under test. B samples of S tokens, i
a query's and j a key's place in its sample.
"""

from itertools import chain

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

__all__ = ["LENGTH", "attention_mask", "dense_mask", "document_lengths", "packed_seq_params", "positions"]

LENGTH = 24
PREFIXES = ([5, 17], [0, 24])  # per micro-batch: in the middle, nothing, everything
REAL = ([24, 19], [3, 12])  # tokens that are no padding, which stands at the end
DOCUMENTS = (([7, 1, 16], [24]), ([10, 14], [2, 3, 19]))  # lengths, per micro-batch and sample
DOCUMENT_PREFIXES = (([3, 1, 0], [24]), ([10, 5], [1, 0, 18]))


def attention_mask(kind: str, packed: bool, micro_batch: int) -> Tensor | None:
    """What a layer whose mask is `kind` is called with."""
    if kind == "prefix" and packed:
        return torch.tensor(list(chain(*DOCUMENT_PREFIXES[micro_batch])))
    if kind == "prefix":
        return torch.tensor(PREFIXES[micro_batch])
    if kind in {"padding", "padding_causal"} and not packed:
        return (torch.arange(LENGTH) >= torch.tensor(REAL[micro_batch]).view(-1, 1)).view(-1, 1, 1, LENGTH)
    if kind == "arbitrary":
        generator = torch.Generator().manual_seed(micro_batch)
        mask = torch.rand(2, 1, LENGTH, LENGTH, generator=generator) < 0.5
        mask.diagonal(dim1=-2, dim2=-1).fill_(False)
        return mask
    return None


def dense_mask(kind: str, packed: bool, window: tuple[int, int] | None, micro_batch: int) -> Tensor:
    """[B, 1, S, S], True = left out: the mask as Megatron's own attention takes it."""
    i, j = torch.arange(LENGTH).view(-1, 1), torch.arange(LENGTH)
    start, document = (places(micro_batch, packed, what).view(2, 1, LENGTH, 1) for what in ("start", "document"))
    visible = j <= i if kind not in {"no_mask", "padding", "arbitrary"} else torch.ones(LENGTH, LENGTH).bool()
    visible = visible.expand(2, 1, LENGTH, LENGTH)
    given = attention_mask(kind, packed, micro_batch)
    if kind == "prefix":
        assert given is not None
        first = 0
        prefix = torch.zeros(2, 1, LENGTH, 1, dtype=torch.int64)
        for sample, lengths in enumerate(document_lengths(micro_batch, packed)):
            own = given[first : first + len(lengths)]
            prefix[sample, 0, :, 0] = own.repeat_interleave(torch.tensor(lengths))
            first += len(lengths)
        visible = visible | ((j >= start) & (j < start + prefix))
    elif given is not None:
        visible = visible & ~given
    if window is not None:
        visible = visible & (i - j <= window[0]) & (j - i <= window[1])
    return ~(visible & (document == document.transpose(-1, -2)))


def document_lengths(micro_batch: int, packed: bool) -> tuple[list[int], ...]:
    """Of each sample; a sample that is not packed is one document."""
    return DOCUMENTS[micro_batch] if packed else ([LENGTH], [LENGTH])


def places(micro_batch: int, packed: bool, what: str) -> Tensor:
    """[B, S]: the number of each token's document, or where in the sample it starts."""
    rows = []
    for lengths in document_lengths(micro_batch, packed):
        numbers = [sum(lengths[:d]) if what == "start" else d for d in range(len(lengths))]
        rows.append(torch.tensor(numbers).repeat_interleave(torch.tensor(lengths)))
    return torch.stack(rows)


def positions(micro_batch: int, packed: bool) -> Tensor:
    """[B, S]: each token's place in its document."""
    return torch.arange(LENGTH) - places(micro_batch, packed, "start")


def packed_seq_params(micro_batch: int) -> PackedSeqParams:
    """The documents of all samples, one sample after the other."""
    lengths = torch.tensor(list(chain(*document_lengths(micro_batch, True))))
    ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    longest = int(lengths.max())
    return PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends, max_seqlen_q=longest, max_seqlen_kv=longest
    )
