"""Calls of the aclnn operator from C++ programs: tensors and attributes go through a folder, outputs come back."""

import dataclasses
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX", "g++").split()
PROGRAMS = Path(__file__).resolve().parent / "programs"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
INCLUDE = ROOT / "csrc" / "hostcann" / "include"
DTYPES = {torch.float32: 0, torch.float16: 1, torch.uint8: 4, torch.bool: 12, torch.bfloat16: 27}  # aclDataType
ND = 2  # aclFormat
NO_LIMIT = 2147483647
# Attributes that every version has or that a call may leave at these.
DEFAULTS = {
    "scale": 1.0,
    "keep_prob": 1.0,
    "pre_tockens": NO_LIMIT,
    "next_tockens": NO_LIMIT,
    "inner_precise": 0,
    "sparse_mode": 0,
    "pse_type": 1,
    "softmax_layout": "",
    "seed": 0,
    "offset": 0,
    "out_dtype": 0,
}


class RefusedError(Exception):
    """A phase returned a code; `phase` is "first" or "second"."""

    def __init__(self, phase: str, code: int, message: str) -> None:
        super().__init__(f"{phase} phase: {code} {message}")
        self.phase, self.code, self.message = phase, code, message


@dataclasses.dataclass
class Described:
    """A tensor with a description that is not its own, for calls that must be refused."""

    tensor: Tensor
    dtype: int | None = None
    format: int = ND
    offset: int | None = None
    strides: list[int] | None = None
    storage: list[int] | None = None


class Programs:
    """The programs of programs/, compiled into `build` against our headers and libraries when they are first run, and
    run with the variables of `environment`."""

    def __init__(self, libraries: Path, build: Path, environment: Mapping[str, str]) -> None:
        self._libraries, self._build, self._environment = libraries, build, dict(environment)

    def compile(self, source: Path, *flags: str) -> Path:
        """A program of one file, which may use programs/call.h."""
        program = self._build / source.stem
        if not program.exists():
            shared = self._build / "call.o"
            if not shared.exists():
                _run(*COMPILER, "-std=c++20", *WARNINGS, "-I", INCLUDE, "-c", PROGRAMS / "call.cpp", "-o", shared)
            command = [*COMPILER, "-std=c++20", *flags, "-I", INCLUDE, source, shared, "-o", program]
            _run(*command, "-L", self._libraries, "-lopapi", "-lascendcl", f"-Wl,-rpath,{self._libraries}")
        return program

    def run(self, name: str, *arguments: object, **variables: str) -> str:
        """Standard output of programs/`name`.cpp; a program that fails fails the test with what it said."""
        program = self.compile(PROGRAMS / f"{name}.cpp", *WARNINGS)
        result = subprocess.run(
            [program, *map(str, arguments)],
            env=self._environment | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, f"{name}: exit {result.returncode}\n{result.stdout}{result.stderr}"
        return result.stdout

    def call(
        self,
        name: str,
        folder: Path,
        inputs: Mapping[str, Tensor | Described | None],
        outputs: Mapping[str, Tensor | None],
        attributes: Mapping[str, Any],
        **variables: str,
    ) -> dict[str, Tensor]:
        """The outputs, each like the tensor given for it: same sizes, strides and storage.

        Raises:
            RefusedError: when a phase returned a code.
        """
        folder.mkdir(exist_ok=True)
        lines = [_write(folder, "input", key, value) for key, value in inputs.items() if value is not None]
        lines += [_write(folder, "output", key, value) for key, value in outputs.items() if value is not None]
        for key, value in (DEFAULTS | dict(attributes)).items():
            if isinstance(value, list):
                lines.append(f"ints {key} {_list(value)}")
            elif isinstance(value, str):
                lines.append(f'value {key} "{value}')
            elif value is not None:
                lines.append(f"value {key} {value!r}")
        (folder / "call.txt").write_text("\n".join(lines) + "\n")
        said = self.run(name, folder, **variables).strip()
        if said != "done":
            phase, code, message = said.split(" ", 2)
            raise RefusedError(phase, int(code), message)
        return {key: _read(folder, key, like) for key, like in outputs.items() if like is not None}


def _run(*command: object) -> None:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def _list(values: Any) -> str:
    return " ".join(map(str, [len(values), *values]))


def _bytes(tensor: Tensor) -> Tensor:
    """The storage of a tensor, which may reach beyond it."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage())


def _write(folder: Path, kind: str, name: str, value: Tensor | Described) -> str:
    given = value if isinstance(value, Described) else Described(value)
    tensor = given.tensor
    storage = _bytes(tensor)
    (folder / f"{name}.in").write_bytes(storage.numpy().tobytes())
    dtype = DTYPES[tensor.dtype] if given.dtype is None else given.dtype
    offset = tensor.storage_offset() if given.offset is None else given.offset
    strides = list(tensor.stride()) if given.strides is None else given.strides
    elements = [storage.numel() // tensor.element_size()] if given.storage is None else given.storage
    sizes = " ".join(map(str, [tensor.ndim, *tensor.shape, *strides]))
    return f"{kind} {name} {dtype} {given.format} {offset} {sizes} {_list(elements)}"


def _read(folder: Path, name: str, like: Tensor) -> Tensor:
    storage = torch.frombuffer(bytearray((folder / f"{name}.out").read_bytes()) or bytearray(1), dtype=torch.uint8)
    if like.numel() == 0:
        return torch.empty_like(like)
    return storage.view(like.dtype).as_strided(like.shape, like.stride(), like.storage_offset())
