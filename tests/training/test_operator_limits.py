"""What the operator would refuse in the first iteration is refused before any data is read, in the operator's words."""

import pytest

from ascendspeed.training import flags, operator_limits
from ascendspeed.training.mistakes import Mistake
from tests.training.settings import SMALL


def run(more: str, world_size: int = 1):
    return flags.parse([*SMALL, *more.split()], world_size=world_size)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--hidden-size 2000 --num-attention-heads 2", "head size of query=1000 is above"),
        ("--kv-channels 1000", "=4 of size 1000 on 1 tensor-parallel ranks: head size of query=1000 is above"),
        ("--hidden-size 600 --num-attention-heads 300", "head_num=300 is above"),
        ("--seq-length 2000000 --max-position-embeddings 2000000", "length of query=2000000 is above"),
        ("--seq-length 600000 --max-position-embeddings 600000 --reset-attention-mask", "1200000"),
        ("--micro-batch-size 3000 --prefix-lm --prefix-end-token 5", "3000"),
    ],
)
def test_what_the_operator_does_not_take_is_a_mistake(more, message):
    with pytest.raises(Mistake) as caught:
        operator_limits.check(run(more))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "more",
    [
        "--reset-attention-mask",
        "--reset-attention-mask --window-size 7,0 --attention-dropout 0.1",
        "--prefix-lm --prefix-end-token 5 --position-embedding-type alibi",
        "--prefix-lm --prefix-end-token 5 --reset-attention-mask",
        "",
        "--bf16 --attention-dropout 0.1",
        "--group-query-attention --num-query-groups 2",
        "--kv-channels 768",
    ],
)
def test_what_the_operator_takes_passes(more):
    operator_limits.check(run(more))


def test_the_heads_of_one_rank_count():
    heads = "--hidden-size 600 --num-attention-heads 300 --tensor-model-parallel-size 2"
    operator_limits.check(run(heads, world_size=2))
