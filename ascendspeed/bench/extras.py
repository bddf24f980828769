"""Libraries of the extra `train`, which the operator alone does without."""

import importlib
from typing import Any

from ascendspeed.training.mistakes import Mistake

__all__ = ["load"]


def load(module: str, what: str) -> Any:
    """The module; `Mistake` where it is not installed: `what` needs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise Mistake(f"{what} needs {error.name}, which is not installed; pip install 'ascendspeed[train]'") from None
