"""CANN's own sample program of aclnnFlashAttentionScoreGrad, unmodified, on the host libraries."""

import re
import subprocess

import pytest
import torch

from ascendspeed.ops import reference
from tests.hostcann.calls import ROOT

SAMPLE = ROOT.parent / "shared" / "seeds" / "sample_flash_attention_score_grad.cpp"
LENGTH, DIM = 256, 128


def expected_output() -> list[str]:
    """What the program prints for dq, dk and dv, from the float64 reference and the bytes that it feeds.

    It stores float32 ones in tensors that it declares as float16, so that each float is two halves, and prints the
    memory of the gradients as float32 again: the halves of the result, then the zeros it began with.
    """
    halves = torch.ones(LENGTH * DIM).view(torch.float16)[: LENGTH * DIM].view(1, 1, LENGTH, DIM)  # 0, 1.875, 0, ...
    threes = torch.full((1, 1, LENGTH), 3.0, dtype=torch.float64)
    scale = 0.088388
    scores = scale * halves.double() @ halves.double().mT
    forward = reference.Forward(halves.double(), threes, threes, torch.exp(scores - 3) / 3)
    mask = torch.zeros(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    gradients = reference.attention_grad(halves, halves, halves, halves, scale=scale, mask=mask, forward=forward)
    lines = []
    for gradient in gradients[:3]:
        memory = torch.zeros(LENGTH * DIM, dtype=torch.float32)
        memory[: LENGTH * DIM // 2] = gradient.to(torch.float16).flatten().view(torch.float32)
        lines += [f"mean result[{i}] is: {value:f}" for i, value in enumerate(memory.tolist())]
    return lines


def test_the_sample_prints_what_the_reference_gives_for_its_bytes(programs):
    if not SAMPLE.exists():
        pytest.skip(f"{SAMPLE.relative_to(ROOT.parent)} is not beside the repository")
    result = subprocess.run([programs.compile(SAMPLE)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr
    printed = result.stdout.splitlines()
    expected = expected_output()
    assert sum(not re.fullmatch(r".*: -?0\.000000", line) for line in expected) == LENGTH * DIM // 2, (
        "dv alone is not 0"
    )
    # A zero's sign is that of a product's rounding, which no one promises.
    assert [line.replace("-0.0", "0.0") for line in printed] == [line.replace("-0.0", "0.0") for line in expected]
