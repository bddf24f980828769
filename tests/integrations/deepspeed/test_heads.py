"""Heads over the ranks of an Ulysses group: each query head meets its key/value head, and what does not fit is told."""

import pytest

from ascendspeed.integrations.deepspeed.heads import ulysses_heads


@pytest.mark.parametrize("heads", range(1, 13))
def test_every_query_head_is_with_its_group(heads):
    """A rank has neighbouring query heads, and neighbouring groups of those repeated where they are too few."""
    for groups in (g for g in range(1, heads + 1) if heads % g == 0):
        for ranks in range(1, heads + 1):
            try:
                local = ulysses_heads(heads, groups, ranks)
            except ValueError:
                assert heads % ranks or (groups % ranks and ranks % groups)
                continue
            repeated = [group for group in range(groups) for _ in range(max(1, ranks // groups))]
            for rank in range(ranks):
                queries = range(rank * local.head_num, (rank + 1) * local.head_num)
                keys = repeated[rank * local.query_groups : (rank + 1) * local.query_groups]
                per_key = local.head_num // local.query_groups
                met = [keys[index // per_key] for index in range(local.head_num)]
                assert met == [query // (heads // groups) for query in queries]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (6, 6, 4),
            "Ulysses gives each of 4 ranks an equal share of the heads, and 4 does not divide num_attention_heads=6; "
            "take a sequence-parallel size out of [1, 2, 3, 6], or other heads",
        ),
        (
            (12, 6, 4),
            "Ulysses gives each of 4 ranks an equal share of the key/value heads, and 4 neither divides nor is "
            "divisible by num_query_groups=6; take a sequence-parallel size out of [1, 2, 3, 6, 12]",
        ),
    ],
)
def test_what_does_not_divide_is_refused(arguments, line):
    with pytest.raises(ValueError, match="Ulysses") as refusal:
        ulysses_heads(*arguments)
    assert str(refusal.value) == line
