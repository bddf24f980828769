"""Threads and lengths are compared with themselves, on the operator alone."""

import pytest
import torch

from ascendspeed.bench.cases import Case
from ascendspeed.bench.studies import Curve, Scaling, cost_of_length, curves, gain_of_threads

SMALL = Case("small", "causal", "float32", 16, heads=1, kv_heads=1, head_size=16)


def test_the_threads_are_changed_for_each_round_and_given_back():
    before = torch.get_num_threads()
    results = list(gain_of_threads(SMALL, 2, rounds=2, budget_seconds=60))
    assert [result.direction for result in results] == ["forward", "forward+backward"]
    assert all({count: len(taken) for count, taken in r.seconds.items()} == {1: 2, 2: 2} for r in results)
    assert torch.get_num_threads() == before


def test_the_speed_up_is_of_the_medians():
    assert Scaling(SMALL, "forward", {1: [3.0, 4.0, 9.0], 2: [2.0, 2.0, 7.0]}).speed_up == 2.0


def test_every_length_is_timed():
    results = list(cost_of_length(SMALL, (16, 32), rounds=1, budget_seconds=60))
    assert [result.direction for result in results] == ["forward", "forward+backward"]
    assert all(list(result.seconds) == [16, 32] for result in results)


def test_a_causal_mask_costs_by_pair_and_a_window_by_token():
    seconds = {16: [1.0], 32: [4.0]}
    causal = Curve(SMALL, "forward", seconds).relative_cost()
    assert causal == pytest.approx({16: 1.0, 32: 4 * (16 * 17) / (32 * 33)})
    band = Case("band", "band", "float32", 16, heads=1, kv_heads=1, window=4)
    assert Curve(band, "forward", seconds).relative_cost() == pytest.approx({16: 1.0, 32: 2.0})


def test_both_masks_are_drawn_in_both_dtypes():
    assert {(case.mask, case.dtype) for case in curves(16)} == {
        (mask, dtype) for mask in ("causal", "band") for dtype in ("float32", "bf16")
    }
