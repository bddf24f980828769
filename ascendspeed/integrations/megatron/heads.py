"""How many query heads and key/value groups this tensor-parallel rank has. Refuses what does not divide."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LocalHeads", "local_heads"]


@dataclass(frozen=True)
class LocalHeads:
    """What one tensor-parallel rank computes.

    head_num: query heads, the operator's head_num.
    query_groups: key/value heads; divides head_num.
    """

    head_num: int
    query_groups: int


def local_heads(num_attention_heads: int, num_query_groups: int | None, tensor_model_parallel_size: int) -> LocalHeads:
    """Split heads over tensor-parallel ranks as megatron-core's SelfAttention does.

    With at least as many groups as ranks every rank gets whole groups. With fewer, `ranks / groups` neighbouring ranks
    share one group: each holds a copy of that key/value head and its own share of the query heads.

    Args:
        num_attention_heads: query heads of the model.
        num_query_groups: key/value heads of the model; None means one per query head.
        tensor_model_parallel_size: number of ranks the heads are split over.

    Raises:
        ValueError: one of the three does not divide the other; the message names both by Megatron's names.
    """
    heads, ranks = num_attention_heads, tensor_model_parallel_size
    groups = heads if num_query_groups is None else num_query_groups
    for name, value in (
        ("num_attention_heads", heads),
        ("num_query_groups", groups),
        ("tensor_model_parallel_size", ranks),
    ):
        if value < 1:
            raise ValueError(f"{name}={value} is less than 1")
    if heads % groups:
        raise ValueError(f"num_query_groups={groups} does not divide num_attention_heads={heads}")
    if heads % ranks:
        raise ValueError(f"tensor_model_parallel_size={ranks} does not divide num_attention_heads={heads}")
    if groups >= ranks and groups % ranks:
        raise ValueError(f"tensor_model_parallel_size={ranks} does not divide num_query_groups={groups}")
    if groups < ranks and ranks % groups:
        raise ValueError(
            f"num_query_groups={groups} does not divide tensor_model_parallel_size={ranks}; "
            "with fewer groups than ranks every group has to be shared by the same number of ranks"
        )
    return LocalHeads(head_num=heads // ranks, query_groups=max(1, groups // ranks))
