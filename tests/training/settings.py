"""The smallest run that goes through everything, as a command line: a fraction of a second per iteration."""

from tests.support.device import DEVICE

__all__ = ["SMALL"]

_SMALL = f"""
    --num-layers 2 --hidden-size 32 --num-attention-heads 4 --seq-length 16 --max-position-embeddings 16
    --attention-dropout 0 --hidden-dropout 0 --micro-batch-size 2 --train-iters 6 --lr 1e-2
    --log-interval 1 --num-workers 0 --device {DEVICE}
"""
SMALL = _SMALL.split()
