"""What the Python environment must not hold, asked before megatron-core loads and makes the best of it."""

from ascendspeed.integrations import apex
from ascendspeed.training.mistakes import Mistake

__all__ = ["check"]


def check() -> None:
    """`Mistake` if a package apex is installed that is neither NVIDIA's nor Ascend's."""
    try:
        apex.find()
    except apex.UnrelatedApexError as error:
        raise Mistake(str(error)) from None
