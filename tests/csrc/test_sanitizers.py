"""scripts/sanitize.sh finds nothing in the kernels and the rules, and does find what is wrong on purpose."""

import os
import platform
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("plain", "address", "undefined", "thread")
# Every sparse mode, dense and packed, once or twice; 20 and 21 have the compressed pse.
FEW = "24"
# Without a sanitizer a case takes a hundredth of a second: enough of them to see every combination that matters.
MANY = "400"

pytestmark = pytest.mark.slow


def sanitize(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "ASCENDSPEED_CPU_ISA"}
    command = ["bash", "scripts/sanitize.sh", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(("names", "cases"), [(NAMES[:1], MANY), (NAMES[1:], FEW)])
def test_nothing_is_found_on_any_instruction_set(names, cases):
    result = sanitize(*names, "--cases", cases)
    assert result.returncode == 0, result.stdout
    lines = [line for line in result.stdout.splitlines() if line.endswith("clean")]
    assert len(lines) == len(names), result.stdout
    for name, line in zip(names, lines, strict=True):
        assert re.fullmatch(
            rf"{name}: cases={cases} threads=1,2,3,5 rules=.* isa=\S*generic\S* seconds=\d+: clean", line
        )


@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates instructions of x86-64")
def test_nothing_is_found_with_the_tiles_of_amx_emulated():
    result = sanitize("emulated", "--cases", FEW)
    assert result.returncode == 0, result.stdout
    assert re.search(rf"^emulated: cases={FEW} .* isa=amx_bf16 seconds=\d+: clean$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("plain", "overflow", "attention_out: memory around it was written"),
        ("plain", "result", r"dq\[\d+\] is .*, expected .* \+- "),
        ("address", "overflow", "AddressSanitizer: heap-buffer-overflow"),
        ("undefined", "signed", "runtime error: signed integer overflow"),
        ("thread", "race", "ThreadSanitizer: data race"),
    ],
)
def test_a_fault_is_found(name, fault, message):
    result = sanitize(name, "--fault", fault)
    assert result.returncode == 1, result.stdout
    assert re.search(message, result.stdout), result.stdout
    assert re.search(rf"^{name}: FAILED", result.stdout, re.MULTILINE), result.stdout


def test_a_fault_that_nothing_looks_for_is_not_found():
    """Else the tests above could not tell a finding from a program that always fails."""
    result = sanitize("plain", "--fault", "race")
    assert result.returncode == 0, result.stdout
    assert "fault=race was not found" in result.stdout


def test_an_unknown_sanitizer_is_refused():
    result = sanitize("memory")
    assert result.returncode == 2
    assert "memory is not one of plain, address, undefined, thread" in result.stdout


def test_an_unknown_argument_is_refused():
    result = sanitize("plain", "--case", "3")
    assert result.returncode == 1
    assert "--case is not a flag" in result.stdout
