"""Tests of the operator on another device than the CPU must not call the CPU's kernels: they would test those."""

import pytest
import torch

from tests.support.device import DEVICE


@pytest.fixture(autouse=True, scope="package")
def _no_kernel_of_the_cpu():
    if DEVICE == "cpu":
        yield
        return

    def refuse(*_, **__):
        raise AssertionError(f"the CPU's kernel was called, the tests are to run on {DEVICE}")

    library = torch.library.Library("ascendspeed", "IMPL")
    for name in ("flash_attention_score", "flash_attention_score_grad", "dropout_gen_mask"):
        library.impl(name, refuse, "CPU")
    yield
    library._destroy()
