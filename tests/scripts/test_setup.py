"""scripts/setup.sh: which environment it takes, what it asks of pip, when it does nothing, and how it fails.

Every test runs the real script in a copy of the few files it reads, on a PATH that holds only the tools named here,
with no network: either it stops before pip, or pip is a recorder.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["bash", "cat", "cp", "dirname", "find", "flock", "grep", "mkdir", "mv"]
TOOLS += ["paste", "rm", "sha256sum", "shasum", "sort", "touch", "xargs"]
REAL_PYTHON = Path(sys.executable).resolve()

# Stands for pip: notes its arguments, and fails when two of it run at once.
RECORDER = """
import os, sys, time
from pathlib import Path
if sys.argv[1:] == ["--version"]:
    sys.exit()
log = Path(os.environ["RECORDER_LOG"])
busy = log.with_suffix(".busy")
busy.mkdir()
time.sleep(float(os.environ.get("RECORDER_SECONDS", "0")))
arguments = [" ".join(Path(a).read_text().split()) if Path(a).is_file() else a for a in sys.argv[1:]]
with log.open("a") as file:
    print(*arguments, file=file)
if "--editable" in sys.argv:
    metadata = Path(__file__).parent / "ascendspeed-0.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    extras = {"train": "trainer>=2", "test": "tester", "dev": "linter==1"}
    lines = [f"Requires-Dist: {package}; extra == \\"{extra}\\"" for extra, package in extras.items()]
    lines += ["Requires-Dist: old; python_version < \\"3.11\\" and extra == \\"test\\""]
    metadata.write_text("\\n".join(["Name: ascendspeed", "Requires-Dist: torch", *lines, ""]))
busy.rmdir()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what setup.sh reads, with an operator that imports and an extension that counts as built."""
    folder = tmp_path / "checkout"
    (folder / "csrc").mkdir(parents=True)
    (folder / "csrc" / "kernel.cpp").write_text("int one() { return 1; }\n")
    (folder / "setup.py").write_text("from pathlib import Path\nPath('ascendspeed/_C.so').touch()\n")
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "ascendspeed" / "ops").mkdir(parents=True)
    (folder / "ascendspeed" / "ops" / "__init__.py").write_text("")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH folder with shell tools, the real python3 and the real g++; tests take things away from it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found is not None:
            (folder / tool).symlink_to(found)
    stub(folder / "python3", f'exec {REAL_PYTHON} "$@"')
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "these tests need the compiler that the extension needs"
    stub(folder / "g++", f'exec {compiler} "$@"')
    return folder


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with a torch of its own (only its metadata) and the recorder as its pip."""
    folder = tmp_path / "active"
    subprocess.run([REAL_PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "torch-2.9.1+cann.dist-info").mkdir()
    (packages / "torch-2.9.1+cann.dist-info" / "METADATA").write_text("Name: torch\nVersion: 2.9.1+cann\n")
    (packages / "pip.py").write_text(RECORDER)
    return folder


def stub(file: Path, script: str) -> None:
    file.unlink(missing_ok=True)
    file.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    file.chmod(0o755)


def settings(path: Path, **variables: object) -> dict[str, str]:
    defaults = {"PATH": path, "HOME": path, "RECORDER_LOG": path.parent / "pip.log", "TMPDIR": path.parent}
    return {name: str(value) for name, value in (defaults | variables).items()}


def setup(checkout: Path, path: Path, *extras: str, **variables: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", checkout / "scripts" / "setup.sh", *extras],
        env=settings(path, **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


def pip_calls(path: Path) -> list[str]:
    log = path.parent / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def assert_refused(result: subprocess.CompletedProcess[str], checkout: Path, *words: str) -> None:
    """One line that says what is missing, a failure, and nothing made."""
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("setup: ")
    for word in words:
        assert word in line
    assert not (checkout / ".venv").exists()


# What is missing is said in one line.


def test_a_missing_compiler_is_refused(checkout, path):
    (path / "g++").unlink()
    assert_refused(setup(checkout, path), checkout, "no C++20 compiler", "g++ >= 12", "clang++")


def test_an_old_gcc_is_refused(checkout, path):
    stub(path / "g++", f'exec {shutil.which("g++")} -U__GNUC__ -D__GNUC__=11 "$@"')
    assert_refused(setup(checkout, path), checkout, "no C++20 compiler")


def test_clang_is_taken_where_there_is_no_gcc(checkout, path, environment):
    (path / "g++").rename(path / "clang++")
    result = setup(checkout, path, VIRTUAL_ENV=environment)
    assert result.returncode == 0, result.stderr


def test_a_useless_cxx_is_refused_by_name(checkout, path):
    assert_refused(setup(checkout, path, CXX="no-such-compiler"), checkout, "CXX='no-such-compiler'")


def test_no_python_is_refused(checkout, path):
    (path / "python3").unlink()
    assert_refused(setup(checkout, path), checkout, "Python 3.10, 3.11 or 3.12 is needed", "python3 does not run")


@pytest.mark.parametrize("version", ["3.8", "3.13"])
def test_a_python_of_another_version_is_refused(checkout, path, version):
    stub(path / "python3", f"echo {version}")
    assert_refused(setup(checkout, path), checkout, f"python3 is {version}", "3.10, 3.11 or 3.12")


def test_a_python_chosen_by_name_is_not_replaced_by_another(checkout, path):
    stub(path / "python3.9", "echo 3.9")
    assert_refused(setup(checkout, path, PYTHON="python3.9"), checkout, "python3.9 is 3.9")


def test_a_python_without_venv_is_refused(checkout, path):
    stub(path / "python3", f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec {REAL_PYTHON} "$@"')
    assert_refused(setup(checkout, path), checkout, "python3 has no pip and venv", "python3-venv")


def test_missing_python_headers_are_refused(checkout, path):
    stub(path / "python3", f'case "$*" in *sysconfig*) echo /nowhere; exit ;; esac\nexec {REAL_PYTHON} "$@"')
    assert_refused(setup(checkout, path), checkout, "/nowhere/Python.h is missing")


def test_an_active_environment_of_another_python_is_refused(checkout, path, tmp_path):
    (tmp_path / "old" / "bin").mkdir(parents=True)
    stub(tmp_path / "old" / "bin" / "python", 'case "$*" in *torch*) echo 2.1 ;; *) echo 3.9 ;; esac')
    result = setup(checkout, path, VIRTUAL_ENV=tmp_path / "old")
    assert_refused(result, checkout, str(tmp_path / "old"), "has Python 3.9")


def test_an_active_environment_without_pip_is_refused(checkout, path, environment):
    next(environment.glob("lib/python*/site-packages/pip.py")).unlink()
    assert_refused(setup(checkout, path, VIRTUAL_ENV=environment), checkout, str(environment), "has no pip")


def test_a_failing_pip_fails_the_setup_and_leaves_it_to_be_done_again(checkout, path, environment):
    pip = next(environment.glob("lib/python*/site-packages/pip.py"))
    pip.write_text(RECORDER + "sys.exit(3 if '--editable' in sys.argv else 0)\n")
    first = setup(checkout, path, VIRTUAL_ENV=environment)
    assert (first.returncode, first.stdout) == (1, "")
    assert first.stderr.splitlines()[-1] == "setup: pip install failed (see above)"
    pip.write_text(RECORDER)
    second = setup(checkout, path, VIRTUAL_ENV=environment)
    assert second.returncode == 0
    assert len(pip_calls(path)) == 4


def test_an_extension_that_does_not_load_fails_the_setup(checkout, path, environment):
    (checkout / "ascendspeed" / "ops" / "__init__.py").write_text("raise ImportError('undefined symbol: at')\n")
    result = setup(checkout, path, VIRTUAL_ENV=environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert "undefined symbol" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("setup: the extension was built but does not load")


# Which environment is used.


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_active_environment_with_torch_is_used_and_its_torch_kept(checkout, path, environment, variable):
    result = setup(checkout, path, "train", "test", **{variable: environment})
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{environment}/bin/python\n"
    assert not (checkout / ".venv").exists()
    calls = pip_calls(path)
    assert len(calls) == 2
    for call in calls:
        assert "--constraint torch==2.9.1+cann" in call
    assert calls[1].endswith("--no-build-isolation --editable .[test,train]")


def test_the_checkouts_own_environment_follows_the_pinned_torch_when_active_too(checkout, path, environment):
    (checkout / ".venv").symlink_to(environment)
    setup(checkout, path, VIRTUAL_ENV=environment)
    pinned = " ".join((ROOT / "scripts" / "constraints.txt").read_text().split())
    assert f"--constraint {pinned} torch" in pip_calls(path)[0]


def test_without_torch_the_active_environment_is_left_alone(checkout, path, environment):
    for metadata in environment.glob("lib/python*/site-packages/torch-*/METADATA"):
        metadata.unlink()
        metadata.parent.rmdir()
    empty = path.parent / "empty"
    empty.mkdir()
    offline = {"PIP_INDEX_URL": empty.as_uri(), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    result = setup(checkout, path, VIRTUAL_ENV=environment, **offline)
    assert "setup: making .venv with python3" in result.stderr
    assert (checkout / ".venv" / "bin" / "python").exists()
    assert (result.returncode, result.stdout) == (1, ""), "there is no torch to be had offline"
    assert pip_calls(path) == []


def test_a_newer_default_python_gives_way_to_a_supported_one(checkout, path):
    stub(path / "python3", "echo 3.13")
    stub(path / "python3.12", "exit 127")
    stub(path / "python3.11", f'case "$*" in *ensurepip*) exit 1 ;; *sys*) exec {REAL_PYTHON} "$@" ;; esac')
    assert_refused(setup(checkout, path), checkout, "python3.11 has no pip and venv")


# What is up to date is not touched.


def test_the_second_call_does_nothing(checkout, path, environment):
    first = setup(checkout, path, "train", VIRTUAL_ENV=environment)
    assert len(pip_calls(path)) == 2
    second = setup(checkout, path, "train", VIRTUAL_ENV=environment)
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert len(pip_calls(path)) == 2


def test_further_extras_are_installed_without_building_again(checkout, path, environment):
    setup(checkout, path, "train", VIRTUAL_ENV=environment)
    result = setup(checkout, path, "test", "dev", VIRTUAL_ENV=environment)
    assert result.returncode == 0, result.stderr
    calls = pip_calls(path)
    assert len(calls) == 3
    assert calls[2].endswith(
        '--constraint torch==2.9.1+cann --requirement tester linter==1 old; python_version < "3.11"'
    )
    setup(checkout, path, "train", VIRTUAL_ENV=environment)
    setup(checkout, path, "dev", "train", VIRTUAL_ENV=environment)
    assert pip_calls(path) == calls


def test_extras_add_up_over_a_change(checkout, path, environment):
    setup(checkout, path, "train", VIRTUAL_ENV=environment)
    (checkout / "setup.py").write_text("# other flags\n")
    setup(checkout, path, "dev", VIRTUAL_ENV=environment)
    assert pip_calls(path)[-1].endswith(".[dev,train]")


@pytest.mark.parametrize(
    "change",
    [
        lambda checkout, environment: (checkout / "csrc" / "kernel.cpp").write_text("int two();\n"),
        lambda checkout, environment: (checkout / "csrc" / "new.h").write_text(""),
        lambda checkout, environment: (checkout / "setup.py").write_text("# other flags\n"),
        lambda checkout, environment: (checkout / "pyproject.toml").write_text("# other packages\n"),
        lambda checkout, environment: (checkout / "ascendspeed" / "_C.so").unlink(),
        lambda checkout, environment: next(environment.glob("lib/*/*/torch-*/METADATA")).write_text(
            "Version: 2.10.0\n"
        ),
    ],
    ids=["source", "new source", "setup.py", "pyproject.toml", "no extension", "torch"],
)
def test_a_change_is_set_up_again(checkout, path, environment, change):
    setup(checkout, path, "train", VIRTUAL_ENV=environment)
    change(checkout, environment)
    result = setup(checkout, path, "train", VIRTUAL_ENV=environment)
    assert result.returncode == 0, result.stderr
    assert len(pip_calls(path)) == 4


def test_warnings_as_errors_rebuild_what_was_built_without(checkout, path, environment):
    setup(checkout, path, VIRTUAL_ENV=environment)
    setup(checkout, path, VIRTUAL_ENV=environment, ASCENDSPEED_WERROR=1)
    assert len(pip_calls(path)) == 4


@pytest.mark.skipif(shutil.which("flock") is None, reason="set-ups wait for each other only where flock is installed")
def test_two_at_once_do_the_work_once(checkout, path, environment):
    variables = settings(path, VIRTUAL_ENV=environment, RECORDER_SECONDS="1")
    command = ["bash", checkout / "scripts" / "setup.sh", "train"]
    running = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert {stdout for stdout, _ in outputs} == {f"{environment}/bin/python\n"}
    assert sum("waiting for another set-up" in stderr for _, stderr in outputs) == 1
    assert len(pip_calls(path)) == 2


# The rules that are written twice agree.


def test_the_build_requirements_are_those_of_pyproject(checkout, path, environment):
    setup(checkout, path, VIRTUAL_ENV=environment)
    declared = re.search(r"^requires = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert declared is not None
    assert pip_calls(path)[0].endswith(" ".join(re.findall(r'"([^"]+)"', declared.group(1))))


def test_test_sh_sets_up_for_tests_and_passes_its_arguments_to_pytest(checkout, path, environment):
    packages = next(environment.glob("lib/python*/site-packages"))
    (packages / "pytest.py").write_text("import os, sys\nprint(os.getcwd(), sys.argv[1:])\nsys.exit(5)\n")
    result = subprocess.run(
        ["bash", checkout / "scripts" / "test.sh", "-k", "a b"],
        env=settings(path, VIRTUAL_ENV=environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == f"{checkout} ['-k', 'a b']\n", result.stderr
    assert result.returncode == 5, "pytest's exit status is the script's"
    assert pip_calls(path)[-1].endswith(".[deepspeed,test,train]")
