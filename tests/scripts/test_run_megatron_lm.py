"""The comparison with Megatron-LM's trainer, which needs a checkout of it: here only how losses are compared."""

import math
import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "run_megatron_lm.py"), run_name="script")


def test_a_loss_that_is_no_number_is_no_small_difference():
    difference = SCRIPT["largest_difference"]
    assert difference([2.0, 1.0], [2.0, 2.0]) == 0.5
    for losses in ([math.nan, 1.0], [1.0, math.nan]):
        assert not difference(losses, [1.0, 1.0]) <= 1
        assert not difference([1.0, 1.0], losses) <= 1


@pytest.mark.parametrize("case", SCRIPT["CASES"])
def test_every_case_but_one_computes_the_triangle_without_a_mask(case):
    assert SCRIPT["CASES"][case].sparse_mode == (1 if case == "tp2-dense-mask" else 2)
