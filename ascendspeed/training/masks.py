"""What of a sample each of its tokens may see, read from the tokens themselves: document ends and prefixes.

Runs on the host, in the processes that read samples; no dense mask is made. With --reset-attention-mask the samples of
a micro-batch become one packed row whose documents end where the tokens say so; with --prefix-lm each sample, or each
document of a packed one, has as prefix what its first separator ends.

# B samples of a micro-batch, S tokens each, D documents in all of them
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor
from torch.utils.data import default_collate

from ascendspeed.training.configs import RunConfig

__all__ = ["Batch", "SampleMasks", "mask_kind", "packed_seq_params", "schedule_shape"]

# tokens, labels, position_ids: [B, S] int64; loss_mask: [B, S] float32; packed all four are [1, B * S]. cu_seqlens:
# [D + 1] int32, in packed batches. prefix: [B] or packed [D] int64, with --prefix-lm. The last two stay on the CPU.
Batch = dict[str, Tensor]


def mask_kind(run: RunConfig) -> str:
    """The mask of every layer, as get_gpt_layer_spec calls it."""
    return "prefix" if run.data.prefix_lm else "causal"


def schedule_shape(run: RunConfig) -> tuple[int, int]:
    """(sequence length, samples) of the activations of a micro-batch: a packed one is a single long sample."""
    length, samples = run.model.seq_length, run.training.micro_batch_size
    return (length * samples, 1) if run.data.reset_attention_mask else (length, samples)


def packed_seq_params(cu_seqlens: Tensor) -> PackedSeqParams:
    """What Megatron's layers are told of a packed batch; the lengths stay on the CPU, where all of them read them."""
    longest = int(cu_seqlens.diff().max())
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


@dataclass(frozen=True)
class SampleMasks:
    """From samples to a micro-batch: the collate function of the loader.

    packed: keep documents apart (--reset-attention-mask).
    eod: the token that ends a document and belongs to it.
    prefix_end: the token that ends a prefix and belongs to it; None: no prefixes.
    """

    packed: bool
    eod: int
    prefix_end: int | None

    def __call__(self, samples: Sequence[Batch]) -> Batch:
        """Megatron's samples ([S] each) as one micro-batch.

        The loss leaves out what a token is asked to predict but can see: inside a prefix every token sees the next.
        """
        batch: Batch = default_collate(list(samples))
        tokens = batch["tokens"]
        ends = [self._document_ends(row) for row in tokens]
        if self.prefix_end is not None:
            prefix = []
            for row, loss_mask, own in zip(tokens, batch["loss_mask"], ends, strict=True):
                for start, end in pairwise([0, *own]):
                    length = _through_the_first(self.prefix_end, row[start:end])
                    loss_mask[start : start + max(0, length - 1)] = 0.0
                    prefix.append(length)
            batch["prefix"] = torch.tensor(prefix)
        if self.packed:
            samples_in_row, length = tokens.shape
            batch = {
                name: t if name == "prefix" else t.reshape(1, samples_in_row * length) for name, t in batch.items()
            }
            total = [number * length + end for number, own in enumerate(ends) for end in own]
            batch["cu_seqlens"] = torch.tensor([0, *total], dtype=torch.int32)
        return batch

    def _document_ends(self, row: Tensor) -> list[int]:
        """Where the documents of a sample end; a sample that is not packed is one."""
        found = (row == self.eod).nonzero().flatten().add(1).tolist() if self.packed else []
        return found if found and found[-1] == len(row) else [*found, len(row)]


def _through_the_first(token: int, document: Tensor) -> int:
    """Tokens up to and with the first such token; 0 without one."""
    places = document.eq(token).nonzero()
    return int(places[0]) + 1 if len(places) else 0
