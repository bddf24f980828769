"""What compares steps of training must not lose a NaN on the way."""

import math

import torch

from tests.integrations.megatron.test_agreement import error
from tests.support.bounds import largest
from tests.training import test_parallel

GOOD = {"first": torch.ones(2), "second": torch.ones(2)}
BAD = {"first": torch.ones(2), "second": torch.tensor([1.0, math.nan])}


def test_the_largest_error_is_nan_if_one_is():
    assert largest([1.0, 3.0, 2.0]) == 3.0
    assert math.isnan(largest([0.0, math.nan, 2.0]))


def test_a_gradient_that_is_nan_agrees_with_none():
    assert error(GOOD, GOOD) == test_parallel.error(GOOD, GOOD) == 0.0
    assert math.isnan(error(BAD, GOOD))
    assert math.isnan(test_parallel.error(BAD, GOOD))
    assert math.isnan(test_parallel.relative([1.0, math.nan], [1.0, 1.0]))
