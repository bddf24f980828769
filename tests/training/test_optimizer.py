"""The learning rate follows the flags, iteration by iteration."""

import math

import pytest
import torch
import torch.distributed as dist

from ascendspeed.integrations.apex import Adam
from ascendspeed.training import flags, model, optimizer
from ascendspeed.training.initialize import world
from ascendspeed.training.mistakes import Mistake
from tests.support.ranks import run_ranks
from tests.training.settings import SMALL


def rates(more: str) -> list[float]:
    """The learning rate of each of 10 iterations."""
    run = flags.parse([*SMALL, "--train-iters", "10", "--lr", "1.0", *more.split()], world_size=1)
    with world(run) as device:
        adam, schedule = optimizer.build(run, model.build(run, device, vocab_size=100))
        seen = []
        for _ in range(10):
            seen.append(adam.param_groups[0]["lr"])
            schedule.step(increment=run.global_batch_size)
    return seen


def test_linear_to_the_minimum():
    assert rates("--min-lr 0.5") == pytest.approx([1 - 0.05 * i for i in range(10)])


def test_cosine_after_a_warm_up():
    expected = [0, 0.5] + [0.5 + 0.5 * math.cos(math.pi * i / 8) for i in range(8)]
    assert rates("--lr-decay-style cosine --lr-warmup-iters 2") == pytest.approx(expected)
    assert rates("--lr-decay-style cosine --lr-warmup-fraction 0.2") == pytest.approx(expected)


def test_constant_and_a_shorter_decay():
    assert rates("--lr-decay-style constant") == [1.0] * 10
    assert rates("--lr-decay-iters 5")[6:] == [0.0] * 4


def test_biases_and_norms_have_no_weight_decay():
    run = flags.parse([*SMALL, "--weight-decay", "0.3"], world_size=1)
    with world(run) as device:
        adam, _ = optimizer.build(run, model.build(run, device, vocab_size=100))
        decays = {len(p.shape) == 1: g["weight_decay"] for g in adam.param_groups for p in g["params"]}
    assert decays == {True: 0.0, False: 0.3}


def _with_apex_on_rank_1_alone() -> str:
    rank = dist.get_rank()
    optimizer.choose_adam = lambda _: Adam(f"Adam {rank}", torch.optim.AdamW, f"reason {rank}")
    try:
        optimizer.agreed_adam()
    except Mistake as mistake:
        return str(mistake)
    return "nothing"


@pytest.mark.distributed
def test_ranks_that_would_train_with_different_adams_are_refused():
    said = (
        "rank 1 would train with Adam 1 (reason 1), rank 0 with Adam 0 (reason 0): "
        "install the same apex on all nodes, or on none"
    )
    assert run_ranks(2, _with_apex_on_rank_1_alone) == [said] * 2
