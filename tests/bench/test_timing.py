"""Rounds are interleaved, limited by the budget, and long enough to be timed."""

import itertools
import time

import pytest

from ascendspeed.bench.timing import Budget, describe, interleave, warm_up


def test_every_subject_is_measured_once_in_each_round():
    order = itertools.count()
    assert interleave({"a": lambda: next(order), "b": lambda: next(order)}, rounds=3) == {
        "a": [0, 2, 4],
        "b": [1, 3, 5],
    }


@pytest.mark.parametrize(
    ("wanted", "seconds_per_round", "rounds"),
    [(7, 1.0, 7), (7, 20.0, 4), (7, 1000.0, 3), (2, 1000.0, 2)],
)
def test_the_budget_limits_the_rounds_to_three_at_least(wanted, seconds_per_round, rounds):
    assert Budget(99.0).rounds(wanted, seconds_per_round) == rounds


def test_time_that_is_gone_is_not_spent_again():
    assert Budget(-1.0).rounds(7, 0.001) == 3


def test_short_calls_are_repeated_within_a_round():
    calls = 0

    def nap():
        nonlocal calls
        calls += 1
        time.sleep(0.002)

    measure, _ = warm_up(nap)
    before = calls
    seconds = measure()
    assert calls - before > 1
    assert seconds >= 0.002  # of one call


def test_a_long_call_is_not_repeated_to_warm_up():
    calls = []
    warm_up(lambda: (calls.append(1), time.sleep(1.0)))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([0.0777, 0.0689, 0.0837], "77.7 ms (68.9-83.7)"),
        ([12.0, 13.0, 31.25], "13.0 s (12.0-31.2)"),
        ([4e-5], "40.0 µs (40.0-40.0)"),
    ],
)
def test_a_time_is_told_by_median_fastest_and_slowest(seconds, text):
    assert describe(seconds) == text
