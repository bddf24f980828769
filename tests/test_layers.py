"""Who may import whom, and that importing changes nothing: the layers of docs/architecture.md as tests."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in (ROOT / "ascendspeed").rglob("*.py")
)
ADAPTOR = "ascendspeed.megatron_adaptor"  # is imported for what it changes, tests/megatron_adaptor
# What a layer must do without. torch_npu is never there on a CPU; megatron-core is what integrations are about.
BLOCKED = {
    "ascendspeed.ops": ["megatron", "deepspeed", "apex", "torch_npu", "transformer_engine"],
    "ascendspeed.device": ["megatron", "deepspeed", "apex", "torch_npu", "transformer_engine"],
    "ascendspeed.integrations": ["deepspeed", "apex", "torch_npu", "transformer_engine"],
    "ascendspeed.bench": ["deepspeed", "apex", "torch_npu", "transformer_engine"],
    "ascendspeed.training": ["deepspeed", "apex", "torch_npu", "transformer_engine"],
}


def python(program: str, *arguments: str) -> str:
    """Run a program in a fresh interpreter and return what it prints."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_arrows_hold():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_arrow_that_points_back_is_found(tmp_path):
    """The contracts can fail: the operator that imports the trainer, in a package of the same layout."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for module in MODULES:
        file = tmp_path / module.replace(".", "/")
        file.mkdir(parents=True, exist_ok=True)
        (file / "__init__.py").write_text("")
    (tmp_path / "ascendspeed" / "ops" / "__init__.py").write_text("import ascendspeed.training\nimport megatron\n")
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "ascendspeed.ops is not allowed to import ascendspeed.training" in result.stdout
    assert "ascendspeed.ops is not allowed to import megatron" in result.stdout


# Folder of csrc -> the folders whose headers it may include. hostcann is one folder per library of CANN, with CANN's
# headers (acl/...) in include. What ends in "torch" or "npu" below may include torch and torch_npu.
TORCH = {"ATen", "c10", "pybind11", "torch"}
INCLUDES = {
    "attention": {"attention"},
    "cpu": {"attention", "cpu"},
    "hostcann/include": {"acl", "aclnn", "aclnnop", "hccl"},
    "hostcann/acl": {"acl", "hostcann/acl"},
    "hostcann/aclnn": {"acl", "aclnn", "aclnnop", "attention", "cpu", "hostcann/acl", "hostcann/aclnn"},
    "hostcann/hccl": {"acl", "hccl", "hostcann/acl", "hostcann/hccl"},
    "hostcann/torch": {"acl", "aclnn", "aclnnop", "hostcann/acl", "hostcann/aclnn", "hostcann/torch", *TORCH},
    "torch": {"attention", "cpu", *TORCH},
    "npu": {"aclnn", "aclnnop", "attention", "npu", "torch_npu", *TORCH},
}


def test_the_includes_of_the_sources_point_one_way():
    top = {folder.partition("/")[0] for folder in INCLUDES}
    assert {path.name for path in (ROOT / "csrc").iterdir() if path.is_dir()} == top
    inner = {f"hostcann/{path.name}" for path in (ROOT / "csrc" / "hostcann").iterdir() if path.is_dir()}
    assert inner == {folder for folder in INCLUDES if folder.startswith("hostcann/")}
    for folder, allowed in INCLUDES.items():
        for file in (ROOT / "csrc" / folder).rglob("*.[ch]*"):
            for quote, header in re.findall(r'^#include ([<"])([^>"]+)', file.read_text(), re.MULTILINE):
                system = header.partition("/")[0] in (header, "sys", "linux") and header != "Python.h"
                standard = quote == "<" and system
                assert standard or any(header.startswith(f"{each}/") for each in allowed), (file, header)


BLOCKED_IMPORT = """
import importlib, json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

modules, blocked = map(json.loads, sys.argv[1:])
sys.meta_path.insert(0, Block())
for name in modules:
    importlib.import_module(name)
assert not set(blocked) & set(sys.modules)
"""


@pytest.mark.parametrize("layer", BLOCKED)
def test_a_layer_imports_without_what_it_does_not_know(layer):
    modules = [name for name in MODULES if name == layer or name.startswith(layer + ".")]
    assert modules, f"{layer} is not there"
    python(BLOCKED_IMPORT, json.dumps(modules), json.dumps(BLOCKED[layer]))


def test_the_package_itself_imports_nothing_heavy():
    loaded = set(python("import ascendspeed, sys; print(*sys.modules)").split())
    assert "torch" not in loaded
    assert "ascendspeed.ops" not in loaded


# The program imports modules one after the other. Around each import it records every attribute of the libraries'
# modules and classes, and the state of the process. New submodules are what importing is; any more is a change.
SNAPSHOT = """
import importlib, json, logging, os, random, signal, sys, types, warnings
names, libraries = json.loads(sys.argv[1]), json.loads(sys.argv[2])
import numpy, torch, torch.cuda, torch.distributed, torch.distributed.distributed_c10d, torch.nn.functional
for library in libraries:
    importlib.import_module(library)

def watched():
    for key, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and key.partition(".")[0] in ("torch", "megatron", "numpy", "builtins"):
            yield key, module

def attributes():
    found = {}
    for key, module in watched():
        for attribute, value in list(vars(module).items()):
            if attribute.startswith("__") or isinstance(value, types.ModuleType):
                continue
            found[f"{key}:{attribute}"] = value
            if isinstance(value, type) and value.__module__ == key:
                for member, inner in list(vars(value).items()):
                    if not member.startswith("__") or member in ("__init__", "__new__", "__call__", "__getattr__"):
                        found[f"{key}:{attribute}.{member}"] = inner
    return found

def state():
    return {
        "environment variables": dict(os.environ),
        "working directory": os.getcwd(),
        "sys.path": list(sys.path),
        "sys.meta_path": [str(type(finder)) for finder in sys.meta_path],
        "warning filters": [str(each) for each in warnings.filters],
        "log handlers": [str(each) for each in logging.getLogger().handlers],
        "log level": logging.getLogger().level,
        "signal handlers": [str(signal.getsignal(each)) for each in signal.valid_signals()],
        "excepthook": str(sys.excepthook),
        "random state": str(random.getstate()) + str(numpy.random.get_state()) + str(torch.get_rng_state().tolist()),
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "process group": torch.distributed.is_initialized(),
        "open files": sorted(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else [],
    }

changes = {}
state()  # looking loads a few modules
after, state_after = attributes(), state()
for name in names:
    loaded, before, state_before = set(sys.modules), after, state_after
    importlib.import_module(name)
    after, state_after = attributes(), state()
    found = [key for key, value in before.items() if key not in after or after[key] is not value]
    # A module that this import loaded is new as a whole, which is no change.
    found += [key for key in after if key not in before and key.partition(":")[0] in loaded]
    found += [key for key, value in state_before.items() if state_after[key] != value]
    if found:
        changes[name] = found
print(json.dumps(changes))
"""
LEARN = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps([name for name in sys.modules if name.partition(".")[0] in ("megatron", "torch", "numpy")]))
"""


def changes_of_importing(*modules: str) -> dict[str, list[str]]:
    """What importing each module changes. A first interpreter learns which libraries the modules load; the second loads
    those before its first record, so that what they do to each other is not laid at our door."""
    libraries = json.loads(python(LEARN, json.dumps(modules)).splitlines()[-1])
    return json.loads(python(SNAPSHOT, json.dumps(modules), json.dumps(libraries)).splitlines()[-1])


def test_importing_changes_nothing_outside():
    assert changes_of_importing(*(module for module in MODULES if module != ADAPTOR)) == {}


def test_a_change_made_on_import_is_found(tmp_path, monkeypatch):
    (tmp_path / "meddler.py").write_text(
        "import os, torch\n"
        "torch.cuda.current_device = lambda: 0\n"
        "torch.nn.Linear.forward = lambda self, x: x\n"
        "torch.new_attribute = 1\n"
        "os.environ['MEDDLED'] = '1'\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    changes = changes_of_importing("ascendspeed", "meddler")
    assert set(changes) == {"meddler"}, changes
    assert set(changes["meddler"]) == {
        "torch.cuda:current_device",
        "torch.nn.modules.linear:Linear.forward",
        "torch:new_attribute",
        "environment variables",
    }
