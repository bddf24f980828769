"""Which ranks share a sequence, which slice of it is this rank's, and what a slice's losses count.

Neighbouring ranks share a sequence: with groups of 2 these are ranks 0 and 1, 2 and 3, and so on.

# S length of the whole sequence, P ranks of the group, B batch
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["local_slice", "sequence_parallel_group", "slice_loss"]


def sequence_parallel_group(size: int) -> dist.ProcessGroup:
    """The group of this rank. A collective: every rank of the world calls it.

    Raises:
        ValueError: size does not divide the number of processes.
    """
    processes = dist.get_world_size()
    if size < 1 or processes % size:
        raise ValueError(f"a sequence-parallel size of {size} does not divide {processes} processes")
    own, _ = dist.new_subgroups(size)
    return own


def local_slice(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, S] to [B, S/P]: what this rank holds of the tokens, labels, position ids or loss mask.

    Raises:
        ValueError: P does not divide S.
    """
    ranks, length = dist.get_world_size(group), tensor.shape[1]
    if length % ranks:
        raise ValueError(f"a sequence of {length} tokens cannot be cut into {ranks} equal slices")
    return tensor.chunk(ranks, dim=1)[dist.get_rank(group)]


def slice_loss(losses: Tensor, loss_mask: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The loss to give to `engine.backward`, such that the engine's gradient is that of the whole micro-batch.

    The engine averages over all ranks. Those of a group hold parts of one mean, which have to be added, hence the
    factor P.

    Args:
        losses: of the slice's tokens, [B, S/P]; any floating dtype, summed in float32.
        loss_mask: 1 for a token that counts and 0 for one that does not, [B, S/P].

    Returns:
        a scalar, P * sum of this slice / tokens of all slices.
    """
    tokens = loss_mask.sum().float()
    dist.all_reduce(tokens, group=group)
    return dist.get_world_size(group) * (losses.float() * loss_mask).sum() / tokens.clamp(min=1)
