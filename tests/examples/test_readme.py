"""What the README and the headers of the examples tell people to type does what they say."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ascendspeed.training import flags as training_flags
from tests.examples.test_pretrain_gpt import environment, split

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "CONTRIBUTING.md"]


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            yield from (line for line in block.splitlines() if line.strip())
    header = re.findall(r"^#   (.*)$", (ROOT / "examples" / "pretrain_gpt.sh").read_text(), re.MULTILINE)
    assert len(header) == 3
    yield from header


COMMANDS = list(commands())
LAUNCHES = [command for command in COMMANDS if "examples/pretrain_gpt.sh" in command]


def test_there_is_something_to_type():
    assert len(LAUNCHES) >= 5
    assert any("scripts/test.sh" in command for command in COMMANDS)


@pytest.mark.parametrize("command", LAUNCHES)
def test_a_launch_is_a_command_the_trainer_accepts(command):
    launcher = command.replace("bash scripts/hostcann.sh ", "")  # which sets up first; tests/npu runs in what it makes
    result = subprocess.run(
        ["bash", "-c", launcher], cwd=ROOT, env=environment(DRY_RUN=1), capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    _, flags = split(shlex.split(result.stdout.splitlines()[0]))
    training_flags.parse(flags, world_size=2)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_file_in_a_command_exists(command):
    for word in shlex.split(command, comments=True):
        if re.fullmatch(r"[\w./-]+/[\w.-]+", word) and not word.startswith((".venv/", "runs/")):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("block", [block for document in DOCUMENTS for block in blocks(document, "python")])
def test_python_in_the_readme_runs(block):
    result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "torch.Size([2, 8, 512, 64]) torch.Size([2, 8, 512, 8]) torch.Size([2, 8, 512, 64])\n"


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{f.name}" for f in ROOT.glob("docs/*.md"))]
)
def test_links_and_named_files_exist(document):
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / document).parent / link).exists(), link
    for name in re.findall(r"\b((?:ascendspeed|csrc|scripts|examples|tests|docs)/[\w./*-]*\.\w+)", text):
        assert list(ROOT.glob(name)), name
