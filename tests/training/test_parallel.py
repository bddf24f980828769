"""However the model, the batch and the optimizer are cut, training is that of one rank with the same weights.

Compared are the losses of every iteration, the first gradients of every parameter and what every weight has changed by
after 3 iterations with accumulated micro-batches, clipping and Adam.

float32: a gradient has gone through about k = 180 tensors (20 forward and 20 backward in each of 4 layers, 4 sums over
the tensor-parallel ranks there, 4 outside) whose elements are sums of up to n = 128 products (8 samples of 16 tokens).
Sums in another order differ by sqrt(2 k n) u, u = 2^-24, if roundings are independent (Higham and Mary 2019); the
largest of many elements is allowed twice that: 2.6e-5 of the largest element. With --adam-eps equal to --lr a change is
a function of gradients with a slope of at most 1, so 3 of them are allowed 3 times as much, and as much as the weights
themselves are rounded.
bfloat16: 2 sqrt(2 k) 2^-9 = 0.074, every tensor being rounded once; the changes are fewer than the roundings of the
weights and not compared.
"""

import pytest
import torch
from torch import Tensor

from tests.support.bounds import largest
from tests.support.ranks import run_ranks
from tests.training.parallel import GPT2, LLAMA, PACKED, PREFIXES, STEPS, Case, Outcome, train, train_each

pytestmark = pytest.mark.distributed

FLOAT32 = 2 * (2 * 180 * 128) ** 0.5 * 2**-24
BFLOAT16 = 2 * (2 * 180) ** 0.5 * 2**-9
NAMES = {
    GPT2: "tied, learned positions",
    LLAMA: "rope, RMSNorm, SwiGLU, GQA",
    PACKED: "the latter with packed documents and windows",
    PREFIXES: "the former with packed documents and prefixes",
}

PP = "--pipeline-model-parallel-size 2 "
VPP = PP + "--num-layers-per-virtual-pipeline-stage 1 "
TP = "--tensor-model-parallel-size 2 "
SP = TP + "--sequence-parallel "
SHARDED = "--use-distributed-optimizer "
OVERLAP = "--overlap-grad-reduce --ddp-bucket-size 4000 "
GATHER = SHARDED + OVERLAP + "--overlap-param-gather "
FULL = "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1 "
SELECTIVE = "--recompute-activations "
BF16 = "--bf16 "
BF16_SUMS = "--grad-reduce-in-bf16 "

CASES = {
    2: [
        Case(GPT2, PP),
        Case(LLAMA, PP),
        Case(LLAMA, PP + SELECTIVE),
        Case(GPT2, VPP),
        Case(LLAMA, VPP),
        Case(LLAMA, VPP + FULL),
        Case(PACKED, VPP),
        Case(PREFIXES, PP),
    ],
    4: [
        Case(GPT2, SP + PP),
        Case(PACKED, SP + PP),
        Case(LLAMA, SP + VPP + SELECTIVE),
        Case(LLAMA, TP),
        Case(LLAMA, TP + OVERLAP),
        Case(LLAMA, TP + GATHER),
        Case(GPT2, PP + SHARDED),
        Case(GPT2, VPP + GATHER),
        Case(LLAMA, PP + GATHER + FULL),
        Case(LLAMA, SP + PP + BF16),
        Case(GPT2, VPP + GATHER + BF16 + BF16_SUMS),
    ],
}
ALL = [(ranks, case) for ranks, cases in CASES.items() for case in cases]


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[int, Case], Outcome]:
    """Of every case, by the number of ranks; every rank has come to the same one."""
    models = dict.fromkeys((case.model, BF16 if BF16 in case.how else "") for _, case in ALL)
    found = {(1, Case(*each)): train(Case(*each)) for each in models}
    for ranks, cases in CASES.items():
        results = run_ranks(ranks, train_each, cases, timeout=400)
        for index, case in enumerate(cases):
            each = [result[index] for result in results]
            assert all(other.losses == each[0].losses and other.grad_norms == each[0].grad_norms for other in each)
            assert all(other.validation == each[0].validation for other in each)
            assert all(equal(other.changes, each[0].changes) for other in each), case
            found[ranks, case] = each[0]
    return found


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def error(ours: dict[str, Tensor], theirs: dict[str, Tensor], rounding: dict[str, float] | None = None) -> float:
    """Largest of max|a - b| / max|b| over the tensors; what `rounding` of a tensor explains is no error."""
    assert ours.keys() == theirs.keys()
    assert all(tensor.abs().max() > 0 for tensor in theirs.values()), "a tensor that is 0 proves nothing"
    rounding = rounding or {}
    off = {name: float((ours[name] - b).abs().max()) - rounding.get(name, 0.0) for name, b in theirs.items()}
    return largest([0.0, *(off[name] / float(b.abs().max()) for name, b in theirs.items())])


def relative(ours: list[float], theirs: list[float]) -> float:
    return largest(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def cut(ranks: int, case: Case) -> str:
    """The way a case is cut, in few words."""
    sizes = [f"TP{' SP' if SP in case.how else ''}" if TP in case.how else "", "PP" if PP in case.how else ""]
    if ranks == 4 and not all(sizes):
        sizes.append("DP")
    words = {
        VPP: "interleaved",
        SHARDED: "distributed optimizer",
        OVERLAP: "overlap",
        FULL: "full recomputation",
        SELECTIVE: "selective recomputation",
        BF16: "bfloat16",
        BF16_SUMS: "sums too",
    }
    return ", ".join([" x ".join(filter(None, sizes)), *(word for flag, word in words.items() if flag in case.how)])


@pytest.mark.parametrize(
    ("ranks", "case"), ALL, ids=[f"{NAMES[case.model]}, {cut(ranks, case)}" for ranks, case in ALL]
)
def test_every_cut_trains_as_one_rank(ranks, case, outcomes, parallel_table):
    bfloat16 = BF16 in case.how
    tolerance = BFLOAT16 if bfloat16 else FLOAT32
    ours, one = outcomes[ranks, case], outcomes[1, Case(case.model, BF16 if bfloat16 else "")]
    losses = relative([*ours.losses, ours.validation], [*one.losses, one.validation])
    gradients = error(ours.gradients, one.gradients)
    changes = None if bfloat16 else error(ours.changes, one.changes)
    parallel_table.append((NAMES[case.model], cut(ranks, case), losses, gradients, changes))
    assert losses <= tolerance
    assert relative(ours.grad_norms, one.grad_norms) <= tolerance
    assert gradients <= tolerance
    # An iteration rounds a weight once, by half of 2^-23 of it, in both runs.
    rounding = {name: 2 * STEPS * 2**-24 * value for name, value in one.largest.items()}
    assert bfloat16 or error(ours.changes, one.changes, rounding) <= STEPS * tolerance


@pytest.mark.parametrize("how", [PP, PP + SELECTIVE, VPP, VPP + FULL])
def test_a_pipeline_and_recomputation_compute_the_same_bits(how, outcomes):
    """The same micro-batches go through the same layers in the same order; only the norm is summed in another one."""
    assert equal(outcomes[2, Case(LLAMA, how)].gradients, outcomes[1, Case(LLAMA)].gradients)


@pytest.mark.parametrize("how", [TP + OVERLAP, TP + GATHER])
def test_overlapping_and_sharding_change_no_bit_of_the_gradients(how, outcomes):
    """Two ranks are summed, in any bucket, by one addition."""
    assert equal(outcomes[4, Case(LLAMA, how)].gradients, outcomes[4, Case(LLAMA, TP)].gradients)


def test_the_proof_has_something_to_find(outcomes):
    """The models differ, gradients are clipped, and every iteration changes the weights by more than is allowed."""
    gpt2, llama = outcomes[1, Case(GPT2)], outcomes[1, Case(LLAMA)]
    assert relative(gpt2.losses, llama.losses) > 1e-2
    assert min(gpt2.grad_norms + llama.grad_norms) > 0.5
    assert min(float(change.abs().max()) for change in llama.changes.values()) > 1e-3
