"""One training step agrees between TP=1, TP=2 and TP=2 with sequence parallelism, and with Megatron's own attention.

Every comparison is of the loss and of every gradient of the whole model, with the same weights. The error of a tensor
is max|a - b| / max|b|, of a step the largest over its tensors; the table of all of them ends the test run.

float32: 1e-5. bfloat16: a gradient has gone through about k = 68 roundings to bfloat16, 16 tensors forward and 16
backward in each of 2 layers and 4 outside of them. Independent roundings of relative size u = 2^-9 add up to sqrt(k) u
(Higham and Mary 2019, a probabilistic bound), two runs differ by sqrt(2 k) u, and the largest of many elements is
allowed twice that: 0.046. As that allows a lot, ours may besides be no farther from the float32 gradients of the same
weights than 1.5 times what Megatron's attention in bfloat16 is.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.integrations.megatron.models import Case, Step, draw_seeds, step_of_each
from tests.support.bounds import largest
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.distributed

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2 * (2 * 68) ** 0.5 * 2**-9}
MODELS = [
    Case(mask=mask, groups=groups, dtype=dtype, normalization="RMSNorm" if groups == 2 else "LayerNorm")
    for mask, groups, dtype in itertools.product(("causal", "prefix"), (4, 2, 1), TOLERANCE)
]
STORED = [
    Case("prefix", 2, ranks=2, sequence_parallel=True),
    Case("causal", 2, ranks=2, sequence_parallel=True, dropout=0.3, normalization="RMSNorm"),
    Case("causal", 2, ranks=2, dropout=0.3),
]
RECOMPUTED = [replace(case, recompute=how) for case in STORED for how in ("full", "selective")]
HEADS = {4: "MHA", 2: "GQA 4:2", 1: "GQA 4:1, fewer groups than ranks"}


def variants(model: Case, ranks: int) -> list[Case]:
    megatron = Case(model.mask, model.groups, model.dtype, ours=False, normalization=model.normalization)
    if ranks == 1:
        return [model, megatron]
    return [case.on(2, sequence_parallel) for case in (model, megatron) for sequence_parallel in (False, True)]


def name(model: Case) -> str:
    return f"{model.mask}, {HEADS[model.groups]}, {str(model.dtype).removeprefix('torch.')}"


@pytest.fixture(scope="module")
def steps() -> dict[Case, Step]:
    """Every variant's step; every rank of a world of two came to the same one."""
    found = {}
    for ranks in (1, 2):
        cases = [case for model in MODELS for case in variants(model, ranks)]
        cases += [case for case in STORED + RECOMPUTED if case.ranks == ranks]
        results = run_ranks(ranks, step_of_each, cases, timeout=400)
        for case, step, other in zip(cases, results[0], results[-1], strict=True):
            assert step.loss == other.loss
            assert all(torch.equal(step.gradients[n], other.gradients[n]) for n in step.gradients), case
            found[case] = step
    return found


def error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    assert all(theirs[n].abs().max() > 0 for n in theirs), "a gradient that is 0 proves nothing"
    return largest(float((ours[n] - theirs[n]).abs().max() / theirs[n].abs().max()) for n in theirs)


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_loss_and_gradients_agree(model, steps, agreement_table):
    one, megatron = (steps[case] for case in variants(model, 1))
    two, two_sp, megatron_two, megatron_two_sp = (steps[case] for case in variants(model, 2))
    assert all(
        torch.equal(one.weights[n], step.weights[n]) for n in one.weights for step in (two, two_sp, megatron_two)
    )
    pairs = {
        "TP=2": (two, one),
        "TP=2 SP": (two_sp, one),
        "TP=1 / Megatron's": (one, megatron),
        "TP=2 / Megatron's": (two, megatron_two),
        "TP=2 SP / Megatron's": (two_sp, megatron_two_sp),
    }
    losses = {pair: abs(a.loss - b.loss) / abs(b.loss) for pair, (a, b) in pairs.items()}
    gradients = {pair: error(a.gradients, b.gradients) for pair, (a, b) in pairs.items()}
    agreement_table.append((name(model), losses, gradients))
    assert largest(losses.values()) <= TOLERANCE[model.dtype], losses
    assert largest(gradients.values()) <= TOLERANCE[model.dtype], gradients


@pytest.mark.parametrize("model", [model for model in MODELS if model.dtype == torch.bfloat16], ids=name)
def test_bfloat16_is_as_close_to_float32_as_megatrons(model, steps):
    exact = steps[Case(model.mask, model.groups, normalization=model.normalization)].gradients
    ours, megatrons = (error(steps[case].gradients, exact) for case in variants(model, 1))
    assert ours <= 1.5 * megatrons, (ours, megatrons)


def test_the_masks_of_the_proof_are_told_apart(steps):
    """Had the mask no effect on the gradients, agreeing on them would prove nothing."""
    for model in MODELS[:6]:
        prefix = Case("prefix", model.groups, model.dtype, normalization=model.normalization)
        assert error(steps[prefix].gradients, steps[model].gradients) > 0.3


@pytest.mark.parametrize("recomputed", RECOMPUTED, ids=str)
def test_recomputation_changes_nothing(recomputed, steps):
    stored = steps[replace(recomputed, recompute=None)]
    assert steps[recomputed].loss == stored.loss
    assert all(torch.equal(steps[recomputed].gradients[n], stored.gradients[n]) for n in stored.gradients)


def test_attention_dropout_changes_the_step(steps):
    without = steps[Case("causal", 2, normalization="RMSNorm").on(2, sequence_parallel=True)]
    with_dropout = steps[STORED[1]]
    assert error(with_dropout.gradients, without.gradients) > 0.1


def test_each_tensor_parallel_rank_drops_out_by_its_own_seed():
    """Alone and under sequence parallelism, where the block has forked the generator already."""
    seeds = run_ranks(2, draw_seeds, (False, True))
    for alone, other in zip(*seeds, strict=True):
        assert alone != other
