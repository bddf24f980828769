"""A training step of the tiny models is the CPU's, bit for bit: loss and gradients, with either task queue.

Host CANN computes with the CPU's kernels, on one thread per rank here and there. Collectives add two ranks' numbers,
and a + b is b + a: gloo and hccl round alike. So nothing may differ. test_agreement.py is what holds for other kernels.
"""

import itertools

import pytest
import torch

from tests.integrations.megatron.models import Case, Step, step_of_each
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.distributed

MODELS = [
    Case(mask, 2, dtype, normalization="RMSNorm")
    for mask, dtype in itertools.product(("causal", "prefix"), (torch.float32, torch.bfloat16))
]
CASES = {
    1: MODELS,
    2: [case.on(2, sequence_parallel) for case in MODELS for sequence_parallel in (False, True)],
}


@pytest.fixture(scope="module")
def cpu() -> dict[int, list[Step]]:
    return {ranks: run_ranks(ranks, step_of_each, cases, device="cpu")[0] for ranks, cases in CASES.items()}


@pytest.mark.parametrize(("ranks", "task_queue"), [(1, "1"), (2, "1"), (2, "0")])
def test_loss_and_gradients_are_the_cpus(cpu, monkeypatch, ranks, task_queue):
    monkeypatch.setenv("TASK_QUEUE_ENABLE", task_queue)
    for steps in run_ranks(ranks, step_of_each, CASES[ranks], device="npu"):
        for case, step, expected in zip(CASES[ranks], steps, cpu[ranks], strict=True):
            assert step.loss == expected.loss, case
            assert step.gradients.keys() == expected.gradients.keys()
            for name, gradient in expected.gradients.items():
                assert gradient.abs().max() > 0
                assert torch.equal(step.gradients[name], gradient), (case, name)
