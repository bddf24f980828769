"""Heads per rank: every split Megatron accepts, every one it must refuse, and the key/value head each query reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascendspeed.integrations.megatron.heads import LocalHeads, local_heads


@pytest.mark.parametrize(
    ("heads", "groups", "ranks", "expected"),
    [
        (8, None, 1, LocalHeads(8, 8)),
        (8, None, 4, LocalHeads(2, 2)),
        (8, 4, 2, LocalHeads(4, 2)),
        (8, 2, 2, LocalHeads(4, 1)),
        (8, 2, 4, LocalHeads(2, 1)),  # two ranks share a group
        (8, 1, 8, LocalHeads(1, 1)),
        (64, 8, 16, LocalHeads(4, 1)),
    ],
)
def test_the_split(heads, groups, ranks, expected):
    assert local_heads(heads, groups, ranks) == expected


@pytest.mark.parametrize(
    ("heads", "groups", "ranks", "message"),
    [
        (8, 3, 1, "num_query_groups=3 does not divide num_attention_heads=8"),
        (6, 6, 4, "tensor_model_parallel_size=4 does not divide num_attention_heads=6"),
        (12, 6, 4, "tensor_model_parallel_size=4 does not divide num_query_groups=6"),
        (12, 4, 6, "num_query_groups=4 does not divide tensor_model_parallel_size=6"),
        (0, 1, 1, "num_attention_heads=0 is less than 1"),
        (8, 0, 1, "num_query_groups=0 is less than 1"),
        (8, 8, 0, "tensor_model_parallel_size=0 is less than 1"),
    ],
)
def test_what_does_not_divide_is_refused_by_name(heads, groups, ranks, message):
    with pytest.raises(ValueError, match=message):
        local_heads(heads, groups, ranks)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4))
def test_every_query_head_reads_the_group_it_reads_on_one_rank(per_group, groups, log_ranks):
    """Query head n reads group n // (heads / groups); Megatron gives rank r the groups from r * groups / ranks on."""
    heads, ranks = per_group * groups * 4, 2**log_ranks
    try:
        local = local_heads(heads, groups, ranks)
    except ValueError:
        assert heads % ranks or max(groups, ranks) % min(groups, ranks)
        return
    for head in range(heads):
        rank, local_head = divmod(head, local.head_num)
        first_group = rank * groups // ranks
        assert first_group + local_head // (local.head_num // local.query_groups) == head // (heads // groups)
