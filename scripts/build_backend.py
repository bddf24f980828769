"""Build backend: setuptools, compiling the extension against the torch that will load it.

An extension fits one torch only. `pip install .` builds in an environment of its own, where a plain requirement on
torch would fetch the newest one whatever the user has. So this backend asks the interpreter it runs on, outside the
isolation, for its torch and compiles against that; where there is none, it requires the one of constraints.txt.
What is built, and how, is setup.py's business.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    return _torch_requirement()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    return _torch_requirement()


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    return _torch_requirement()


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: Any = None) -> str:
    _make_torch_importable()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: Any = None) -> str:
    _make_torch_importable()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    _make_torch_importable()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    _make_torch_importable()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    _make_torch_importable()
    return build_meta.build_sdist(sdist_directory, config_settings)


def _torch_requirement() -> list[str]:
    """What is to be installed before setup.py, which imports torch, can run at all."""
    if _torch_outside_isolation() is not None:
        return []
    constraints = Path(__file__).with_name("constraints.txt").read_text().splitlines()
    return [line for line in constraints if line.startswith("torch==")]


def _make_torch_importable() -> None:
    """Append the folder that holds the interpreter's torch, last, so that only what isolation lacks comes from it."""
    if importlib.util.find_spec("torch") is None:
        folder = _torch_outside_isolation()
        if folder is not None:
            sys.path.append(folder)


def _torch_outside_isolation() -> str | None:
    """The folder on the interpreter's own path that holds torch; pip isolates by environment variables alone."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    probe = "import importlib.util as u; spec = u.find_spec('torch'); print(spec.origin if spec else '')"
    # Run elsewhere, so that a folder named torch in the current one is not taken for it.
    found = subprocess.run(
        [sys.executable, "-c", probe], env=environment, cwd=sys.prefix, capture_output=True, text=True, check=True
    )
    origin = found.stdout.strip()
    return str(Path(origin).parents[1]) if origin else None
