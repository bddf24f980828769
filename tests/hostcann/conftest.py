"""CANN's libraries for the host, built once, and C++ programs compiled against them as a user compiles his."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostcann.calls import Programs
from tests.hostcann.operator import Operator

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "programs"
INCLUDE = ROOT / "csrc" / "hostcann" / "include"
# Settings of the developer's shell must not reach the programs.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("ASCEND", "HCCL", "LD_"))}

Compile = Callable[..., Path]

# Host CANN refuses to run beside a real card.
collect_ignore_glob = ["test_*.py"] if list(Path("/dev").glob("davinci[0-9]*")) else []


@pytest.fixture(scope="session")
def libraries() -> Path:
    """The folder of libascendcl.so, libopapi.so and libhccl.so, up to date."""
    # cmake is a program of the environment that the tests run in.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", ROOT / "scripts" / "build_hostcann.sh"],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


@pytest.fixture(scope="session")
def compile_program(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """compile_program(source, "ascendcl", ...): an executable from one C++ file, linked with these libraries of ours.

    `own=True` adds the headers between our libraries (csrc), which a user does not have.
    """
    folder = tmp_path_factory.mktemp("programs")

    def compile_one(source: Path, *link: str, own: bool = False) -> Path:
        program = folder / source.stem
        if not program.exists():
            command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}"]
            command += [f"-I{ROOT / 'csrc'}"] * own
            command += [source, "-o", program, f"-L{libraries}", *(f"-l{name}" for name in link), "-pthread"]
            command += [f"-Wl,-rpath,{libraries}", f"-Wl,-rpath-link,{libraries}"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert result.returncode == 0, result.stderr
        return program

    assert shutil.which(os.environ.get("CXX", "g++").split()[0]), "no C++ compiler"
    return compile_one


def run_program(program: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program with exactly these ASCEND*, HCCL* and LD_* variables; 60 s are a hang."""
    return subprocess.run(
        [program, *arguments], env=CLEAN | variables, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="session")
def programs(libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(libraries, tmp_path_factory.mktemp("calls"), CLEAN)


@pytest.fixture(scope="session")
def operator_of(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Operator]:
    """The operator by the name of its forward: "score_v2", "var_len_score_v5"."""

    def make(version: str) -> Operator:
        backward = version.replace("var_len_score", "unpadding_score").replace("score", "score_grad")
        folder = tmp_path_factory.mktemp(version)
        return Operator(programs, folder, f"flash_attention_{version}", f"flash_attention_{backward}")

    return make
