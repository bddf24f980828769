"""A case is one problem, however it is put: to the operator, to torch, as a dense mask and as a number of pairs."""

import pytest
import torch

from ascendspeed.bench.cases import CASES, Case, operator, problem, torch_sdpa, visible, visible_pairs

SMALL = [
    Case("causal", "causal", "float32", 48, heads=2, kv_heads=2, head_size=16),
    Case("full", "full", "float32", 1, heads=2, kv_heads=2, head_size=16, keys=20),
    Case("band", "band", "float32", 48, heads=2, kv_heads=2, head_size=16, window=7),
    Case("wide band", "band", "float32", 5, heads=2, kv_heads=2, head_size=16, window=7),
    Case("prefix", "prefix", "float32", 48, heads=2, kv_heads=2, head_size=16, prefix=12),
    Case("groups", "causal", "float32", 48, heads=4, kv_heads=2, head_size=16),
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_the_pairs_are_those_of_the_dense_mask(case):
    assert visible_pairs(case) == case.heads * int(visible(case).sum())


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("attention", [operator, torch_sdpa])
def test_both_sides_compute_the_case(case, attention):
    """Against softmax in float64. Inputs are O(1) and sums over at most 48: 1e-5 is 80 eps of float32."""
    (query, key, value), _ = problem(case)
    key, value = (t.double().repeat_interleave(case.heads // case.kv_heads, dim=1) for t in (key, value))
    scores = query.double() @ key.transpose(2, 3) * case.head_size**-0.5
    expected = scores.masked_fill(~visible(case), -torch.inf).softmax(dim=-1) @ value
    out = attention(case)(*problem(case)[0])
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
