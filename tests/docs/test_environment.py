"""docs/environment.md lists exactly the environment variables that are read somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Named in scripts, but a shell's own.
SHELL = {"BASH_SOURCE", "PIPESTATUS", "PWD", "PATH"}
PYTHON_READS = re.compile(
    r"""(?:environ(?:ment)?(?:\.get\(|\.setdefault\(|\.pop\(|\[)|getenv\(|_seconds\()\s*["'](\w+)["']"""
)
PYTHON_ASKS = re.compile(r"""["'](\w+)["'] (?:not )?in os\.environ""")
CPP_READS = re.compile(r"""getenv\(\s*"(\w+)\"""")
PYTHON_NAMES = re.compile(r"""["'](\w+_SOCKET_IFNAME|ACL_DEVICE_SYNC_TIMEOUT)["']""")  # read in a loop
OURS = re.compile(r"""["'](ASCENDSPEED_[A-Z0-9_]+)["']""")
# Our scripts' own variables are in small letters.
SHELL_READS = re.compile(r"\$\{?!?([A-Z][A-Z0-9_]*)")
SHELL_PRESETS = re.compile(r"^([A-Z][A-Z0-9_]*) \|", re.MULTILINE)  # the table of scripts/launch/ascend.sh


def variables_read() -> Iterator[tuple[str, str]]:
    """(variable, file) of every reading of an environment variable."""
    python = [*ROOT.glob("ascendspeed/**/*.py"), ROOT / "setup.py", *ROOT.glob("scripts/**/*.py")]
    python += [ROOT / "tests" / "conftest.py", *ROOT.glob("tests/support/*.py")]
    cpp = [*ROOT.glob("csrc/**/*.cpp"), *ROOT.glob("csrc/**/*.h")]
    shell = [*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("examples/**/*.sh"), ROOT / ".ci" / "run"]
    for files, patterns in (
        (python, [PYTHON_READS, PYTHON_ASKS, PYTHON_NAMES, OURS]),
        (cpp, [CPP_READS, OURS]),
        (shell, [SHELL_READS, SHELL_PRESETS]),
    ):
        for file in files:
            code = (
                re.sub(r"^\s*#.*$", "", file.read_text(), flags=re.MULTILINE)
                if file.suffix in ("", ".sh")
                else file.read_text()
            )
            for pattern in patterns:
                for name in pattern.findall(code):
                    yield name, str(file.relative_to(ROOT))


def variables_documented() -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "environment.md").read_text(), re.MULTILINE)


def test_every_variable_that_is_read_is_in_the_table():
    documented = set(variables_documented()) | SHELL
    assert {(name, file) for name, file in variables_read() if name not in documented} == set()


def test_every_variable_in_the_table_is_read():
    assert set(variables_documented()) - {name for name, _ in variables_read()} == set()


def test_no_variable_is_in_the_table_twice():
    documented = variables_documented()
    assert len(documented) == len(set(documented))


def test_the_instruction_sets_are_those_that_can_be_forced():
    (row,) = re.findall(r"^\| `ASCENDSPEED_CPU_ISA` .*$", (ROOT / "docs" / "environment.md").read_text(), re.MULTILINE)
    names = re.findall(r"`(\w+)`", row)[1:]
    code = "".join(file.read_text() for file in ROOT.glob("csrc/cpu/microkernel_*.cpp"))
    assert set(names) == set(re.findall(r'make_microkernel\("(\w+)"', code))
