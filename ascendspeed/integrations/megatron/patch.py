"""What a patch of Megatron is, and which Megatron it is made to: versions, and copies that get in each other's way."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from ascendspeed.device.replace import has, locate

__all__ = ["MegatronCopiesError", "Patch", "check_copies", "megatron_version"]


@dataclass(frozen=True)
class Patch:
    """One attribute of Megatron that is replaced.

    target: "module:attribute"; best a class attribute, which is looked up when it is used, so that it does not matter
        who has imported the class before.
    make: original -> replacement.
    reason: shown by --list and in docs/megatron.md.
    versions: the releases of megatron-core that have the target, all of which it was tested with.
    with_te: whether it is for a Megatron with, or without, Transformer Engine; None: for both.
    adds: the target is a global that functions of the module read, but that an import has left undefined.
    """

    target: str
    make: Callable[[Any], Any]
    reason: str
    versions: str
    with_te: bool | None = None
    adds: bool = False

    def applies_to(self, version: str) -> bool:
        """Whether this megatron-core, with or without Transformer Engine as it is here, is patched so."""
        return SpecifierSet(self.versions).contains(version, prereleases=True) and self.with_te in {None, _has_te()}

    def check(self) -> None:
        """See that the target is there.

        Raises:
            AttributeError: Megatron has moved it; the message is the target and what it was tested with.
        """
        try:
            owner, name = locate(self.target, absent=self.adds)
            if self.adds and not any(name in each.__code__.co_names for each in _functions(owner)):
                raise AttributeError(self.target)
        except AttributeError as error:
            raise AttributeError(
                f"{self.target} is not in megatron-core {megatron_version()}, which has moved it; "
                f"the patch was tested with {self.versions}"
            ) from error


def _has_te() -> bool:
    """What Megatron has found out: a Transformer Engine that is installed but does not load is none."""
    return bool(importlib.import_module("megatron.core.models.gpt.gpt_layer_specs").HAVE_TE)


def _functions(module: Any) -> list[types.FunctionType]:
    return [each for each in vars(module).values() if isinstance(each, types.FunctionType)]


class MegatronCopiesError(RuntimeError):
    """Parts of different Megatrons would be mixed."""


def megatron_version() -> str:
    """Of the megatron-core that is imported here."""
    return str(importlib.import_module("megatron.core.package_info").__version__)


def check_copies() -> None:
    """Look for a second megatron-core on the path. It warns of one that nothing is taken from.

    Raises:
        MegatronCopiesError: megatron.core would come from one copy, and megatron.training from another.
    """
    used = _folder_of("megatron.core")
    others = [folder for folder in _copies() if folder != used]
    if not others:
        return
    named = f"{_named(used)} is used; {', '.join(map(_named, others))} is on the path too"
    trainer = _folder_of("megatron.training") if has("megatron.training") else used
    if trainer.parent != used.parent:
        raise MegatronCopiesError(
            f"two Megatrons would be mixed: megatron.core is {_named(used)}, but megatron.training is {trainer}; put "
            f"{trainer.parent.parent} first on PYTHONPATH, or uninstall the other"
        )
    warnings.warn(f"two copies of megatron-core: {named}", stacklevel=2)


def _folder_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{module} is not installed (pip install megatron-core)", name=module)
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _copies() -> list[Path]:
    folders = [Path(entry or ".", "megatron", "core").resolve() for entry in sys.path]
    return list(dict.fromkeys(folder for folder in folders if (folder / "package_info.py").is_file()))


def _named(folder: Path) -> str:
    """The folder with the version that its package_info.py gives, which is not executed."""
    text = (folder / "package_info.py").read_text()
    numbers = re.findall(r"^(?:MAJOR|MINOR|PATCH) = (\d+)", text, re.MULTILINE)
    return f"{folder} ({'.'.join(numbers)})"
