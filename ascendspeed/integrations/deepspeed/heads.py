"""How many heads a rank of an Ulysses group attends with after the all-to-all. Refuses what does not divide."""

from ascendspeed.integrations.megatron.heads import LocalHeads

__all__ = ["ulysses_heads"]


def ulysses_heads(num_attention_heads: int, num_query_groups: int, sequence_parallel_size: int) -> LocalHeads:
    """Split the heads over the ranks that share a sequence.

    With at least as many key/value heads as ranks every rank gets whole groups. With fewer, each key/value head is
    repeated for the ranks / groups neighbouring ranks whose query heads use it, and no further.

    Args:
        num_attention_heads: query heads of the layer.
        num_query_groups: key/value heads of the layer; divides num_attention_heads.
        sequence_parallel_size: ranks that share a sequence.

    Raises:
        ValueError: the heads cannot be shared out evenly; the message names both numbers and what to change.
    """
    heads, groups, ranks = num_attention_heads, num_query_groups, sequence_parallel_size
    if ranks < 1 or heads % ranks:
        raise ValueError(
            f"Ulysses gives each of {ranks} ranks an equal share of the heads, and {ranks} does not divide "
            f"num_attention_heads={heads}; take a sequence-parallel size out of {_divisors(heads)}, or other heads"
        )
    if groups % ranks and ranks % groups:
        fitting = [size for size in _divisors(heads) if groups % size == 0 or size % groups == 0]
        raise ValueError(
            f"Ulysses gives each of {ranks} ranks an equal share of the key/value heads, and {ranks} neither divides "
            f"nor is divisible by num_query_groups={groups}; take a sequence-parallel size out of {fitting}"
        )
    return LocalHeads(head_num=heads // ranks, query_groups=max(1, groups // ranks))


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
