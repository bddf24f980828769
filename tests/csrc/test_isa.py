"""Every instruction set this CPU has, forced by name and asserted to be the one that ran; and that none leaks."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[2]
ISA_NAMES = ("generic", "generic_bf16", "avx2", "avx512", "avx512_bf16", "amx_bf16", "neon", "neon_bf16")


def probe(isa: str, *command: str) -> subprocess.CompletedProcess:
    command = command or ("-m", "tests.csrc.isa_probe")
    environment = os.environ | {"ASCENDSPEED_CPU_ISA": isa}
    return subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True)


def supported() -> list[str]:
    refusal = probe("none", "-c", "from ascendspeed.ops import active_isa; active_isa()")
    message = refusal.stderr.strip().splitlines()[-1]
    assert message.startswith("ValueError: ASCENDSPEED_CPU_ISA=none is not one of: "), message
    return message.split(": ", 2)[2].split()


@pytest.mark.parametrize("isa", ISA_NAMES)
def test_forced_instruction_set_runs_and_is_correct(isa):
    if isa not in supported():
        pytest.skip(f"this CPU has no {isa}")
    result = probe(isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [isa]


def test_generic_is_always_there():
    assert "generic" in supported()


def test_an_unknown_instruction_set_is_refused_by_the_operator_too():
    attend = "q = torch.ones(1, 1, 1, 1); ascendspeed.ops.flash_attention_score(q, q, q, 1, 'BNSD')"
    result = probe("sse9", "-c", f"import torch, ascendspeed.ops; {attend}")
    assert result.returncode != 0
    assert "ASCENDSPEED_CPU_ISA=sse9 is not one of:" in result.stderr


@pytest.fixture(scope="module")
def setup_names():
    with mock.patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


def compile_without_torch(source: str, flags: list[str], output: Path) -> None:
    command = ["g++", "-std=c++20", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Icsrc", *flags, "-c", source]
    result = subprocess.run([*command, "-o", str(output)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_instruction_set_files_export_nothing_a_linker_could_share(setup_names, tmp_path):
    """A weak symbol compiled with AVX-512 may be the copy that every other file then calls."""
    if not setup_names["ISA_FLAGS"]:
        pytest.skip("no per-file instruction sets on this machine")
    for source, flags in setup_names["ISA_FLAGS"].items():
        compile_without_torch(source, flags, tmp_path / "isa.o")
        symbols = subprocess.run(["nm", "-C", str(tmp_path / "isa.o")], capture_output=True, text=True, check=True)
        kinds = {line.split(maxsplit=2)[-1]: line[17] for line in symbols.stdout.splitlines()}
        shared = [name for name, kind in kinds.items() if kind in "WVuT"]
        assert shared == [], f"{source}: {shared}"


def test_kernels_and_rules_compile_without_torch(setup_names, tmp_path):
    for source in setup_names["SOURCES"]:
        if not source.startswith("csrc/torch/"):
            compile_without_torch(source, ["-fsyntax-only"], tmp_path / "plain.o")
