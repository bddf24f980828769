"""A case is timed in both directions, beside torch, and not at all when the two disagree."""

from dataclasses import replace

import pytest
import torch

from ascendspeed.bench import attention
from ascendspeed.bench.attention import DisagreementError, Timing, time_case
from ascendspeed.bench.cases import Case
from ascendspeed.ops import library

SMALL = Case("small", "causal", "bf16", 32, heads=2, kv_heads=1, head_size=16)


@pytest.mark.parametrize(
    "case",
    [SMALL, replace(SMALL, mask="band", window=8), replace(SMALL, mask="prefix", prefix=8)],
    ids=lambda c: c.mask,
)
def test_every_round_of_both_sides_is_kept(case):
    timings = list(time_case(case, rounds=2, budget_seconds=60))
    assert [timing.direction for timing in timings] == ["forward", "forward+backward"]
    for timing in timings:
        assert {name: len(seconds) for name, seconds in timing.seconds.items()} == {"torch": 2, "ours": 2}


def test_a_case_is_timed_beside_our_own_float32():
    case = Case("half", "causal", "float16", 32, heads=2, kv_heads=2, head_size=16, beside_float32=True)
    timing = next(time_case(case, rounds=1, budget_seconds=60))
    assert set(timing.seconds) == {"torch", "ours", "ours float32"}
    assert timing.row()[-1].startswith("our own float32 / ours ")


def test_what_is_not_computed_alike_is_not_timed(monkeypatch):
    wrong = Case("small", "full", "bf16", 32, heads=2, kv_heads=1, head_size=16)
    monkeypatch.setattr(attention, "operator", lambda case: attention.torch_sdpa(wrong))
    with pytest.raises(DisagreementError, match="case small: our output differs"):
        next(time_case(SMALL, rounds=1, budget_seconds=60))


def test_operations_are_counted_on_visible_positions():
    """2 products forward and 7 in all, of S (S + 1) / 2 pairs, N heads and D multiply-adds, in the median second."""
    case = Case("c", "causal", "float32", 3, heads=5, kv_heads=5, head_size=7)
    seconds = {"torch": [1.0, 4.0, 9.0], "ours": [2.0, 2.0, 8.0]}
    forward, both = (Timing(case, direction, seconds, peaks=[]) for direction in ("forward", "forward+backward"))
    assert forward.gflops == pytest.approx(2 * 2 * 6 * 5 * 7 / 2.0 / 1e9)
    assert both.gflops == pytest.approx(2 * 7 * 6 * 5 * 7 / 2.0 / 1e9)
    assert forward.ratio == 2.0
    assert forward.share_of_peak is None


def test_the_processors_peak_is_measured_in_every_round(monkeypatch):
    dtypes = []
    monkeypatch.setattr(library, "peak_gflops", lambda dtype: dtypes.append(dtype) or 5.0)
    for timing in time_case(replace(SMALL, peak=True), rounds=2, budget_seconds=60):
        assert timing.peaks == [5.0, 5.0]
        assert set(timing.seconds) == {"torch", "ours"}
        assert timing.share_of_peak == pytest.approx(timing.gflops / 5)
    assert dtypes == [torch.bfloat16] * 4


def test_the_pass_computes_gradients():
    calls = []

    def attend(*tensors):
        calls.append(torch.is_grad_enabled())
        return sum(tensors)

    tensors = [torch.ones(2, requires_grad=True) for _ in range(3)]
    for direction in attention.DIRECTIONS:
        attention.passes(direction, attend, tensors, torch.ones(2))()
    assert calls == [False, True]
