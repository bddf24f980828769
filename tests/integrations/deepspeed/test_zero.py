"""Our GPT under ZeRO 1, 2 and 3, with sequences whole and shared by Ulysses, trains as megatron-core does alone.

Losses in float32 may differ by 1e-5 of themselves, the same sums in another order, and gradient norms by 1e-4, being
sums of squares of what has gone through four times as many. Adam divides a gradient by its own size, so that rounding
moves a weight by a part of its way: a weight may be off by 1% of LR * STEPS, the longest way there is.

In bfloat16 each side rounds every activation, by up to 2^-9 of itself: a loss may be off by 2^-7, four times that. All
weights together may be no farther from the float32 training than 1.5 times as far as megatron-core's own bfloat16 is.
"""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("deepspeed", reason="needs the extra deepspeed: bash scripts/setup.sh train test deepspeed")

from tests.integrations.deepspeed.models import LR, STEPS, Case, Training, train_by_deepspeed, train_by_megatron
from tests.support.bounds import largest
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.distributed

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
LOSS = {FLOAT32: 1e-5, BFLOAT16: 2**-7}

ON_TWO = [
    Case(stage=1, slices=2, groups=4),
    *(Case(stage=stage, slices=2) for stage in (2, 3)),
    Case(stage=3),
    Case(stage=3, slices=2, groups=1, positions="learned_absolute", tied=False, recompute=True),
    *(Case(stage=stage, slices=2, dtype=BFLOAT16) for stage in (1, 2, 3)),
]
ON_FOUR = [Case(stage=3, slices=2), Case(stage=2, slices=4)]
ALL = [(2, case) for case in ON_TWO] + [(4, case) for case in ON_FOUR]


def model(case: Case) -> Case:
    """The case as one process has it."""
    return replace(case, stage=0, slices=1, recompute=False)


@pytest.fixture(scope="module")
def references() -> dict[Case, Training]:
    cases = list(dict.fromkeys(model(case) for case in ON_TWO + ON_FOUR))
    return dict(zip(cases, run_ranks(1, train_by_megatron, cases)[0], strict=True))


@pytest.fixture(scope="module")
def trainings() -> dict[tuple[int, Case], Training]:
    """What every rank of two and of four came to."""
    found = {}
    for ranks, cases in ((2, ON_TWO), (4, ON_FOUR)):
        results = run_ranks(ranks, train_by_deepspeed, cases)
        for case, first, *others in zip(cases, *results, strict=True):
            for other in others:
                assert other.losses == first.losses
                assert other.norms == pytest.approx(first.norms, rel=1e-6)
                assert all(torch.equal(other.weights[name], first.weights[name]) for name in first.weights), case
            found[ranks, case] = first
    return found


def farthest(ours: Training, megatrons: Training) -> float:
    return largest(float((ours.weights[name] - megatrons.weights[name]).abs().max()) for name in megatrons.weights)


def distance(one: Training, other: Training) -> float:
    return sum(float((one.weights[name] - other.weights[name]).square().sum()) for name in other.weights) ** 0.5


@pytest.mark.parametrize(("ranks", "case"), ALL, ids=str)
def test_it_trains_as_megatron_does(ranks, case, references, trainings):
    ours, megatrons = trainings[ranks, case], references[model(case)]
    losses = largest(abs(a - b) / b for a, b in zip(ours.losses, megatrons.losses, strict=True))
    norms = largest(abs(a - b) / b for a, b in zip(ours.norms, megatrons.norms, strict=True))
    print(f"{ranks} processes, {case}: losses {losses:.1e}, norms {norms:.1e}, weights {farthest(ours, megatrons):.1e}")
    assert losses <= LOSS[case.dtype]
    assert norms <= 10 * LOSS[case.dtype]
    assert max(megatrons.norms) > 1, "nothing was clipped"
    if case.dtype == FLOAT32:
        assert farthest(ours, megatrons) <= 0.01 * LR * STEPS


@pytest.mark.parametrize("case", [case for case in ON_TWO if case.dtype == BFLOAT16], ids=str)
def test_bfloat16_is_as_close_to_float32_as_megatrons(case, references, trainings):
    exact = references[replace(model(case), dtype=FLOAT32)]
    ours, megatrons = (distance(each, exact) for each in (trainings[2, case], references[model(case)]))
    print(f"{case}: ours {ours:.3f}, megatron-core's {megatrons:.3f}")
    assert 0 < ours <= 1.5 * megatrons


def test_every_layer_is_checked_with_the_heads_of_its_rank(trainings):
    for (_, case), training in trainings.items():
        heads, groups = 4 // case.slices, max(1, case.groups // case.slices)
        assert f"heads {heads} groups {groups} of 16" in training.contract[0], case
