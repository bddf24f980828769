"""Every way to install the package, each into an environment that has nothing but the package's own requirements.

One copy of the sources is compiled once, with warnings as errors; `setup.py install`, the wheel and `pip install .`
then take what is built. `pip install -e .` is how scripts/setup.sh makes the environment these tests run in.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

# Forward and backward of a grouped-query, causal case against the dense reference. 16 keys of float32: the sums are far
# shorter than what 1e-5 allows for (D = 32, 4e-6 of the largest term).
SMOKE = """
import importlib.util, sys
from pathlib import Path
import torch, ascendspeed.ops
from ascendspeed.ops import reference

environment = Path(sys.argv[1])
assert Path(ascendspeed.__file__).is_relative_to(environment), ascendspeed.__file__
assert importlib.util.find_spec("megatron") is None, "this environment is not empty"
torch.manual_seed(1)
query, key, value = (torch.randn(2, n, 16, 32, requires_grad=True) for n in (4, 2, 2))
mask = ascendspeed.ops.compressed_atten_mask(2, query.device)
out = ascendspeed.ops.flash_attention_score(
    query, key, value, 4, "BNSD", atten_mask=mask, sparse_mode=2, scale=32**-0.5
).attention_out
grad = torch.randn_like(out)
out.backward(grad)
excluded = reference.excluded(2, 4, 16, 16, atten_mask=mask, sparse_mode=2)
with torch.no_grad():
    truth = reference.attention(query, key, value, scale=32**-0.5, mask=excluded).attention_out
    truths = reference.attention_grad(query, key, value, grad, scale=32**-0.5, mask=excluded)[:3]
for got, want in zip([out, query.grad, key.grad, value.grad], [truth, *truths]):
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
print("installed", ascendspeed.__version__)
"""


def run(*command: object, cwd: Path, **variables: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, after `setup.py build` in it."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("ascendspeed", "csrc", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    output = run(sys.executable, "setup.py", "build", cwd=folder, ASCENDSPEED_WERROR="1")
    assert "-Werror" in output
    assert re.findall(r"^.*\bwarning: .*\[-W.*$", output, re.MULTILINE) == []
    assert list(folder.glob("build/lib*/ascendspeed/_C*"))
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "setup.py", "bdist_wheel", "--dist-dir", folder, cwd=source)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A virtual environment with exactly what the package requires, linked from the one that runs the tests."""
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in closure(distribution("ascendspeed").requires or []):
        for file in distribution(name).files or []:
            entry = file.parts[0]
            if entry not in ("..", "__pycache__") and not (packages / entry).exists():
                (packages / entry).symlink_to(Path(str(distribution(name).locate_file(entry))))
    return folder


def closure(requirements: list[str]) -> set[str]:
    """The names of all installed distributions that these requirements need, extras left out."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found.add(requirement.name)
            waiting += [Requirement(text) for text in distribution(requirement.name).requires or []]
    return found


def pip_install(environment: Path, what: Path, *options: str, cwd: Path) -> None:
    # No index: everything that is required must be there already.
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    run(*pip, "install", "--no-index", "--no-build-isolation", *options, what, cwd=cwd)


def assert_works(environment: Path, tmp_path: Path) -> None:
    output = run(environment / "bin" / "python", "-c", SMOKE, environment, cwd=tmp_path)
    assert output.strip() == f"installed {distribution('ascendspeed').version}"


def test_the_wheel_works_in_an_empty_environment(wheel, environment, tmp_path):
    pip_install(environment, wheel, cwd=tmp_path)
    assert_works(environment, tmp_path)


def test_pip_install_works(source, environment, tmp_path):
    pip_install(environment, source, cwd=tmp_path)
    assert_works(environment, tmp_path)


def test_setup_py_install_works(source, environment, tmp_path):
    run(environment / "bin" / "python", "setup.py", "install", cwd=source)
    assert_works(environment, tmp_path)


def test_the_wheel_holds_the_package_its_license_and_nothing_else(wheel):
    sources = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "ascendspeed").rglob("*")
        if file.is_file() and file.suffix != ".so" and "__pycache__" not in file.parts
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == sources | {f"ascendspeed/_C{sysconfig.get_config_var('EXT_SUFFIX')}"}
    assert any(name.endswith("/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_a_torch_npu_that_is_too_old_is_refused_in_one_line(tmp_path):
    for name, text in (("torch_npu/__init__.py", ""), ("torch_npu-2.9.0.dist-info/METADATA", "Version: 2.9.0\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "setup.py: the NPU kernels need torch_npu 2.13, and 2.9.0 is installed"


def test_without_torch_setup_py_says_so_in_one_line(tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare", cwd=tmp_path)
    (tmp_path / "setuptools.py").write_text("setup = Extension = None\n")
    result = subprocess.run(
        [tmp_path / "bare" / "bin" / "python", ROOT / "setup.py", "build"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr == (
        "setup.py: the extension is built against torch, which is not installed here (No module named 'torch')\n"
    )


@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
def test_a_build_uses_the_torch_of_the_interpreter_that_asked_for_it(hook, tmp_path):
    """pip's isolation hides the packages of the interpreter; the backend looks past it before it asks for a torch."""
    program = f"import build_backend; print(build_backend.{hook}())"
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare", cwd=tmp_path)
    # Python's -S leaves site-packages out, as isolation does; setuptools comes by the path, as from pip's overlay.
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    for package in ("setuptools", "_distutils_hack"):
        (overlay / package).symlink_to(Path(str(distribution("setuptools").locate_file(package))))
    path = os.pathsep.join([str(ROOT / "scripts"), str(overlay)])
    here = run(sys.executable, "-S", "-c", program, cwd=tmp_path, PYTHONPATH=path)
    assert here.strip() == "[]"
    elsewhere = run(tmp_path / "bare" / "bin" / "python", "-S", "-c", program, cwd=tmp_path, PYTHONPATH=path)
    assert elsewhere.strip() == str(
        [line for line in (ROOT / "scripts/constraints.txt").read_text().splitlines() if line.startswith("torch==")]
    )
