"""A sequence is cut into equal slices, and the slices' losses add up to the whole sequence's mean."""

import pytest
import torch

from ascendspeed.integrations.deepspeed import local_slice, sequence, sequence_parallel_group, slice_loss

LOSSES = torch.arange(16.0).view(2, 8)
MASK = torch.ones(2, 8).index_fill(1, torch.tensor([0, 2, 3]), 0)


class Ranks:
    """Two ranks of one group, one after the other: what the other one adds to a sum is known beforehand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rank, self.tokens = 0, MASK.sum()
        monkeypatch.setattr(sequence.dist, "get_world_size", lambda group=None: 2)
        monkeypatch.setattr(sequence.dist, "get_rank", lambda group=None: self.rank)
        monkeypatch.setattr(sequence.dist, "all_reduce", lambda tensor, group: tensor.copy_(self.tokens))

    def each(self, function):
        results = []
        for self.rank in range(2):
            results.append(function())
        return results


@pytest.fixture
def ranks(monkeypatch) -> Ranks:
    return Ranks(monkeypatch)


def test_slices_are_the_sequence_in_the_order_of_the_ranks(ranks):
    assert torch.equal(torch.cat(ranks.each(lambda: local_slice(LOSSES, None)), dim=1), LOSSES)


def test_the_mean_over_the_ranks_is_the_mean_over_the_tokens(ranks):
    shares = ranks.each(lambda: slice_loss(local_slice(LOSSES, None), local_slice(MASK, None), None))
    assert shares[0] != shares[1]
    assert torch.equal(sum(shares) / 2, (LOSSES * MASK).sum() / MASK.sum())


def test_a_batch_without_a_token_that_counts_has_no_loss(ranks):
    ranks.tokens = torch.tensor(0.0)
    assert ranks.each(lambda: float(slice_loss(LOSSES, torch.zeros_like(LOSSES), None))) == [0, 0]


def test_unequal_slices_and_groups_are_refused(ranks):
    with pytest.raises(ValueError, match=r"^a sequence of 7 tokens cannot be cut into 2 equal slices$"):
        local_slice(LOSSES[:, :7], None)
    with pytest.raises(ValueError, match=r"^a sequence-parallel size of 3 does not divide 2 processes$"):
        sequence_parallel_group(3)
