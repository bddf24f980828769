"""scripts/test_aarch64.sh: the C++ tests on every instruction set of aarch64, where Debian's packages for it are."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", "qemu-aarch64": "qemu-user"}
FEW = "4"


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in environment.items() if name != "ASCENDSPEED_CPU_ISA"}
    command = [shutil.which("bash"), "scripts/test_aarch64.sh", "--cases", FEW]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_every_instruction_set_of_aarch64_is_correct():
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        pytest.skip(f"Debian's {' '.join(missing)} not installed")
    result = run(dict(os.environ))
    assert result.returncode == 0, result.stdout
    isas = "neon_bf16,neon,generic,generic_bf16"
    clean = rf"^plain: cases={FEW} .* isa={isas} seconds=\d+: clean$"
    assert re.search(clean, result.stdout, re.MULTILINE), result.stdout
    assert "neoverse-n1: neon generic generic_bf16\n" in result.stdout


def test_packages_that_are_missing_are_named(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    result = run({"PATH": str(tmp_path)})
    assert result.returncode == 2
    packages = " ".join(PROGRAMS.values())
    assert result.stdout == f"test_aarch64: Debian's {packages} not installed; remedy: apt-get install {packages}\n"
