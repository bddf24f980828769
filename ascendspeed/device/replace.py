"""Attributes of other libraries, replaced and put back: the one place that writes them. The reasons stand in tables."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

__all__ = ["Replacements", "has", "locate"]

_INHERITED = object()  # the owner itself had no such attribute


def has(package: str) -> bool:
    """Whether a package, which may be one within another, can be imported. It is not imported, those around it are."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def locate(target: str, *, absent: bool = False) -> tuple[Any, str]:
    """The object that holds the attribute, and the attribute's name.

    Args:
        target: "module:attribute"; a dotted attribute reaches into a class.
        absent: the attribute itself need not be there.

    Raises:
        AttributeError: there is no such module or attribute; the message is the target.
    """
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    try:
        owner = functools.reduce(getattr, parents, importlib.import_module(module))
    except (ModuleNotFoundError, AttributeError) as error:
        raise AttributeError(target) from error
    if not absent and not hasattr(owner, name):
        raise AttributeError(target)
    return owner, name


class Replacements:
    """What is replaced now, by target in the order of replacing, and what stood there before."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}

    def __contains__(self, target: str) -> bool:
        return target in self._before

    def __len__(self) -> int:
        return len(self._before)

    def replace(self, target: str, make: Callable[[Any], Any]) -> None:
        """Set the attribute to make(what is there now, or None).

        Raises:
            AttributeError: as locate().
            ValueError: it is replaced already.
        """
        if target in self._before:
            raise ValueError(f"{target} is replaced already")
        owner, name = locate(target, absent=True)
        replacement = make(getattr(owner, name, None))
        self._before[target] = vars(owner).get(name, _INHERITED)
        setattr(owner, name, replacement)

    def restore(self, *targets: str) -> None:
        """Put these back, or without arguments everything, the latest first. What is not replaced is left alone."""
        for target in [each for each in reversed(self._before) if not targets or each in targets]:
            owner, name = locate(target)
            before = self._before.pop(target)
            if before is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
