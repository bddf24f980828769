"""docs/operator_tests.md has a row for every argument of the operator and names tests that exist."""

import ast
import re
from pathlib import Path

import torch

from ascendspeed import ops as ops  # registers the operator

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "operator_tests.md").read_text()


def test_every_argument_has_a_row():
    arguments = [argument.name for argument in torch.ops.ascendspeed.flash_attention_score.default._schema.arguments]
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == arguments


def test_every_test_that_is_named_exists():
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT))
    assert named
    written = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - written == set()


def test_every_test_is_named_in_full():
    assert re.findall(r"`(?!tests/)\w*::\w+`|`test_\w+`", TEXT) == []
