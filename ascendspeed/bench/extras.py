"""Libraries of the extra `train`, which the operator alone does without."""

import importlib.util

from ascendspeed.training.mistakes import Mistake

__all__ = ["require"]


def require(library: str, what: str) -> None:
    """`Mistake` if the library is not installed: `what` needs it."""
    if importlib.util.find_spec(library) is None:
        raise Mistake(f"{what} needs {library}, which is not installed; pip install 'ascendspeed[train]'")
