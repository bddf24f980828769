"""NaN and infinity in the inputs reach what depends on them, and nothing else that the masks keep apart.

Two float64 statements bracket the operator. In the reference an excluded position still takes part with weight 0, and
0 * NaN is NaN: what is finite there must be finite. In `skipping` excluded positions do not exist: what is not finite
there must not be. In between lies what depends on the blocks a kernel visits.

N heads, Sq/Skv lengths, D head size; batch and heads are 1 to 2.
"""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ascendspeed.ops import reference
from tests.ops.test_flash_attention_score import run
from tests.support.cases import Case
from tests.support.operator import flash_attention_score, has_dpse

NAMES = ("attention_out", "softmax_max", "softmax_sum", "dq", "dk", "dv")
TENSORS = ("query", "key", "value", "dy")


@dataclasses.dataclass(frozen=True)
class Poison:
    """`value` at random positions of the tensor `place`: a share of all that is at least one element."""

    place: str
    value: float
    share: float

    def apply(self, target: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        count = max(1, int(self.share * target.numel()))
        where = torch.randperm(target.numel(), generator=generator)[:count]
        changed = target.clone().flatten()
        changed[where] = self.value
        return changed.view(target.shape)


@dataclasses.dataclass(frozen=True)
class PoisonedCase(Case):
    poison: Poison | None = None

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query, key, value, dy = map(self._poisoned, TENSORS, super().tensors())
        return query, key, value, dy

    def pse_tensor(self) -> Tensor | None:
        return self._poisoned("pse", super().pse_tensor())

    def sink_tensor(self) -> Tensor | None:
        return self._poisoned("sink", super().sink_tensor())

    def _poisoned(self, place: str, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or self.poison is None or self.poison.place != place:
            return tensor
        return self.poison.apply(tensor, self.seed + 9)


@st.composite
def poisoned_cases(draw: st.DrawFn) -> PoisonedCase:
    lengths = st.one_of(st.integers(1, 20), st.sampled_from([72, 73, 96, 97, 145]), st.integers(1, 150))
    kv_heads = draw(st.integers(1, 2))
    mode = draw(st.sampled_from([None, 0, 1, 2, 3, 4]))
    q_len, kv_len = draw(lengths), draw(lengths)
    off = kv_len - q_len
    place = draw(st.sampled_from([*TENSORS, "pse", "sink"]))
    dtypes = [torch.bfloat16, torch.float16] + ([torch.float32] if place != "sink" else [])
    return PoisonedCase(
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        qk_dim=4,
        v_dim=3,
        dtype=draw(st.sampled_from(dtypes)),
        masked=mode is not None,
        sparse_mode=mode or 0,
        mask_density=draw(st.sampled_from([0.3, 0.9])),
        # With off the band of mode 4 holds a position for any lengths.
        pre_tockens=draw(st.integers(0, 60)) + abs(off) if mode in (0, 4) else 2147483647,
        next_tockens=draw(st.integers(0, 60)) + abs(off) if mode in (0, 4) else 2147483647,
        poison=Poison(
            place,
            draw(st.sampled_from([float("nan"), float("inf"), -float("inf")])),
            draw(st.sampled_from([0.0, 0.05, 1.0])),
        ),
        pse=draw(st.sampled_from(["BNSS", "1NSS", "BN1S"])) if place == "pse" else None,
        pse_type=draw(st.sampled_from([0, 1])) if place == "pse" else 1,
        sink=place == "sink",
        seed=draw(st.integers(0, 2**31)),
    )


def skipping(case: Case) -> dict[str, Tensor]:
    """The operator's formula over visible positions alone: an excluded one is left out of every sum."""
    query, key, value, dy = (t.double() for t in case.tensors())
    group = case.heads // case.kv_heads
    key, value = (t.repeat_interleave(group, dim=1) for t in (key, value))
    visible = ~case.excluded()

    def seen(terms: Tensor) -> Tensor:
        """`terms` [B, N, Sq, Skv, anything], 0 where excluded."""
        return torch.where(visible.view(*visible.shape, *[1] * (terms.ndim - 4)), terms, 0.0)

    def over_group(t: Tensor) -> Tensor:
        return t.unflatten(1, (case.kv_heads, group)).sum(dim=2)

    rows, columns = (slice(None), slice(None), slice(None), None), (slice(None), slice(None), None)
    by = case.factor if case.pse_type == 1 else 1.0
    pse, sink = case.pse_tensor(), case.sink_tensor()
    scores = case.factor * (query[rows] * key[columns]).sum(dim=-1)
    if pse is not None:
        scores = scores + by * pse.double()
    maximum = scores.masked_fill(~visible, -torch.inf).amax(dim=-1, keepdim=True)
    if sink is not None:
        logit = sink.double().view(1, -1, 1, 1)
        maximum = torch.maximum(maximum, logit)
    empty = maximum == -torch.inf
    maximum = maximum.masked_fill(empty, 0.0)
    weights = seen(torch.exp(scores - maximum))
    total = weights.sum(dim=-1, keepdim=True).masked_fill(empty, 1.0)
    sink_weight = torch.zeros_like(total) if sink is None else torch.exp(logit - maximum)
    total = total + sink_weight
    p = weights / total
    out = seen(p[..., None] * value[columns]).sum(dim=3)
    delta = (dy * out).sum(dim=-1, keepdim=True)
    ds = p * ((dy[rows] * value[columns]).sum(dim=-1) - delta)
    found = {
        "attention_out": out,
        "softmax_max": maximum.squeeze(-1),
        "softmax_sum": total.squeeze(-1),
        "dq": case.factor * seen(ds[..., None] * key[columns]).sum(dim=3),
        "dk": case.factor * over_group(seen(ds[..., None] * query[rows]).sum(dim=2)),
        "dv": over_group(seen(p[..., None] * dy[rows]).sum(dim=2)),
    }
    if pse is not None:
        found["dpse"] = (by * seen(ds)).sum_to_size(pse.shape)
    if sink is not None:
        found["dsink"] = -(sink_weight / total * delta).sum(dim=(0, 2, 3))
    return found


def names(case: Case) -> tuple[str, ...]:
    """All results that `case` has, in the order of the operator's outputs and then of its inputs."""
    return (*NAMES, *(["dpse"] if has_dpse(case.pse, case.pse_type) else []), *(["dsink"] if case.sink else []))


def results(case: Case) -> dict[str, Tensor]:
    output, gradients, _ = run(case)
    stats = (output.softmax_max[..., 0], output.softmax_sum[..., 0])
    return dict(zip(names(case), (output.attention_out, *stats, *gradients), strict=True))


def check_poisoned(case: PoisonedCase) -> None:
    found = results(case)
    least = skipping(case)
    query, key, value, dy = case.tensors()
    problem = case.reference_arguments()
    forward = reference.attention(query, key, value, **problem)
    gradients = reference.attention_grad(query, key, value, dy, **problem, forward=forward)
    most = dict(zip(NAMES, (*forward[:3], *gradients[:3]), strict=True))
    if case.pse:
        by = case.factor if case.pse_type == 1 else 1.0
        most["dpse"] = (by * gradients.ds).sum_to_size(case.pse_tensor().shape)
    if case.sink:
        most["dsink"] = gradients.dsink
    clean = results(dataclasses.replace(case, poison=None))
    for name in names(case):
        finite = found[name].isfinite()
        assert not (finite & ~least[name].isfinite()).any(), f"{name}: a visible NaN or infinity was lost"
        assert not (~finite & most[name].isfinite()).any(), f"{name}: not finite where the reference is"
        if math.isnan(case.poison.value):  # an infinite key can also be one that no row attends to
            assert torch.equal(found[name][finite], clean[name][finite]), f"{name}: what is finite has changed"


@given(poisoned_cases())
def test_nan_and_infinity_reach_what_depends_on_them(case):
    check_poisoned(case)


@pytest.mark.parametrize("keys", [1, 96, 97, 192, 200])
def test_a_bias_of_minus_infinity_excludes_like_a_mask(keys):
    """pse of -inf on the first keys, which is how a bias masks, over whole blocks of 96 keys."""
    query, key, value = (torch.randn(1, 1, 200, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    bias = torch.zeros(1, 1, 1, 200)
    bias[..., :keys] = -torch.inf
    biased = flash_attention_score(query, key, value, 1, "BNSD", pse=bias, pse_type=0)
    masked = flash_attention_score(
        query, key, value, 1, "BNSD", atten_mask=(bias[0] < 0).expand(1, 1, 200, 200), sparse_mode=1
    )
    for one, other in zip(biased[:3], masked[:3], strict=True):
        assert torch.equal(one, other)
