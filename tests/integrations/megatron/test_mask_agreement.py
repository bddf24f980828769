"""Every kind of mask end to end: a step of a GPT of two layers is that of Megatron's own attention with a dense mask.

Loss and every gradient, with one rank and two, with and without sequence parallelism; tolerances and the table that
ends the test run are those of test_agreement.py. With dropout both sides drop by the same bits, drawn by each rank
under Megatron's RNG tracker; ranks then drop differently, so TP=2 has no TP=1 to be compared with.
"""

from dataclasses import replace

import pytest
import torch

from tests.integrations.megatron.models import Case, Step, step_of_each
from tests.integrations.megatron.test_agreement import TOLERANCE, error
from tests.support.bounds import largest
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.distributed

BF16 = torch.bfloat16
WINDOW = (4, 0)  # 5 keys
MODELS = {
    "no_mask": Case("no_mask"),
    "causal_bottom_right": Case("causal_bottom_right", 2),
    "padding": Case("padding"),
    "padding_causal": Case("padding_causal", 2),
    "arbitrary": Case("arbitrary"),
    "window of 5 keys": Case("causal", 2, window=WINDOW),
    "window around the query": Case("no_mask", window=(3, 6)),
    "window in every second layer": Case("causal", window=WINDOW, interleaved=True),
    "window in every second layer, bfloat16": Case("causal", 2, BF16, window=WINDOW, interleaved=True),
    "packed": Case("causal", 2, packed=True),
    "packed, bfloat16": Case("causal", 2, BF16, packed=True),
    "packed, learned positions from 0 in each document": Case("causal", packed=True, positions="learned_absolute"),
    "packed, padding_causal as Transformer Engine calls it": Case("padding_causal", 2, packed=True),
    "packed, no_mask": Case("no_mask", packed=True),
    "packed, window of 5 keys": Case("causal", 1, packed=True, window=WINDOW),
    "packed, prefix of each document": Case("prefix", 2, packed=True),
    "ALiBi": Case("causal", positions="alibi"),
    "ALiBi, bfloat16": Case("causal", 2, BF16, positions="alibi"),
    "ALiBi, prefix": Case("prefix", 2, positions="alibi"),
    "ALiBi, window of 5 keys": Case("causal", window=WINDOW, positions="alibi"),
    "ALiBi, packed": Case("causal", 2, packed=True, positions="alibi"),
    "dropout": Case("causal", 2, dropout=0.3),
    "dropout, prefix": Case("prefix", dropout=0.3),
    "dropout, padding": Case("padding", dropout=0.3),
    "dropout, window in every second layer": Case("causal", 2, window=WINDOW, interleaved=True, dropout=0.3),
    "dropout, packed": Case("causal", 2, packed=True, dropout=0.3),
    "dropout, ALiBi, packed": Case("causal", packed=True, positions="alibi", dropout=0.3),
}
SAME = {"packed", "packed, padding_causal as Transformer Engine calls it"}  # causal documents, by either name
RECOMPUTED = [
    replace(MODELS[name], recompute=how, sequence_parallel=True, ranks=2)
    for name, how in (("packed", "full"), ("dropout, packed", "selective"), ("ALiBi, prefix", "full"))
]


def variants(model: Case, ranks: int) -> list[Case]:
    """Ours without and with sequence parallelism, then Megatron's; one rank has none."""
    both = [model, replace(model, ours=False)]
    return both if ranks == 1 else [case.on(2, sp) for case in both for sp in (False, True)]


@pytest.fixture(scope="module")
def steps() -> dict[Case, Step]:
    """Every variant's step; every rank of a world of two came to the same one."""
    found = {}
    for ranks in (1, 2):
        cases = list(dict.fromkeys(case for model in MODELS.values() for case in variants(model, ranks)))
        cases += [case for case in RECOMPUTED if case.ranks == ranks]
        results = run_ranks(ranks, step_of_each, cases, timeout=400)
        for case, step, other in zip(cases, results[0], results[-1], strict=True):
            assert step.loss == other.loss
            assert all(torch.equal(step.gradients[n], other.gradients[n]) for n in step.gradients), case
            found[case] = step
    return found


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_a_dense_mask(name, steps, agreement_table):
    model = MODELS[name]
    one, megatron = (steps[case] for case in variants(model, 1))
    two, two_sp, megatron_two, megatron_two_sp = (steps[case] for case in variants(model, 2))
    pairs = {} if model.dropout else {"TP=2": (two, one), "TP=2 SP": (two_sp, one)}
    pairs |= {
        "TP=1 / Megatron's": (one, megatron),
        "TP=2 / Megatron's": (two, megatron_two),
        "TP=2 SP / Megatron's": (two_sp, megatron_two_sp),
    }
    losses = {pair: abs(a.loss - b.loss) / abs(b.loss) for pair, (a, b) in pairs.items()}
    gradients = {pair: error(a.gradients, b.gradients) for pair, (a, b) in pairs.items()}
    agreement_table.append((name, losses, gradients))
    assert largest(losses.values()) <= TOLERANCE[model.dtype], losses
    assert largest(gradients.values()) <= TOLERANCE[model.dtype], gradients


def test_the_masks_of_the_proof_are_told_apart(steps):
    """Two models that differ in their mask have different gradients: had it no effect, agreeing proved nothing."""
    found = [(name, steps[model].gradients) for name, model in MODELS.items() if model.dtype == torch.float32]
    for number, (name, ours) in enumerate(found):
        for other, theirs in found[:number]:
            if ours.keys() != theirs.keys() or any(ours[n].shape != theirs[n].shape for n in ours):
                continue  # of other groups, or with another position embedding
            if {name, other} == SAME:
                assert error(ours, theirs) == 0
            else:
                assert error(ours, theirs) > 1e-3, (name, other)


@pytest.mark.parametrize("recomputed", RECOMPUTED, ids=str)
def test_recomputation_changes_nothing(recomputed, steps):
    stored = steps[replace(recomputed, recompute=None)]
    assert steps[recomputed].loss == stored.loss
    assert all(torch.equal(steps[recomputed].gradients[n], stored.gradients[n]) for n in stored.gradients)
