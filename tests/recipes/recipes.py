"""The recipes as the trainer gets them, and the tables of docs/recipes.md.

python -m tests.recipes.recipes docs/recipes.md        # writes the tables anew
"""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ascendspeed.training import flags
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.memory import GIB, Estimate, estimate

__all__ = ["ROOT", "SCRIPTS", "Recipe", "counted", "dry_run", "presets", "recipe", "with_tables"]

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("examples/*/pretrain_*_a[23].sh"))
OWN = {"DATA_PATH", "TOKENIZER_PATH", "SAVE_DIR", "CHECK", "DEVICE", "NNODES", "NPROC_PER_NODE", "NODE_RANK"}


class Recipe(NamedTuple):
    """What one script starts."""

    flags: list[str]
    nodes: int
    per_node: int
    run: RunConfig


def dry_run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script as the first of its nodes, with the given settings alone."""
    clean = {name: value for name, value in os.environ.items() if name not in OWN | set(presets())}
    node = {"DRY_RUN": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    return subprocess.run(
        ["bash", ROOT / script, *arguments], env=clean | node | variables, capture_output=True, text=True, timeout=60
    )


@functools.cache
def recipe(script: str) -> Recipe:
    """The command that the script makes, read as torchrun and the trainer do."""
    result = dry_run(script, DATA_PATH="corpus", TOKENIZER_PATH="tokenizer.json")
    assert result.returncode == 0, result.stderr
    words = shlex.split(result.stdout.splitlines()[0])
    at = words.index("ascendspeed.training.pretrain_gpt")
    torchrun, argv = words[: at - 1], words[at + 1 :]
    per_node = int(torchrun[torchrun.index("--nproc-per-node") + 1])
    nodes = int(torchrun[torchrun.index("--nnodes") + 1]) if "--nnodes" in torchrun else 1
    return Recipe(argv, nodes, per_node, flags.parse(argv, world_size=nodes * per_node))


@functools.cache
def counted(script: str) -> Estimate:
    """Its memory."""
    return estimate(recipe(script).run)


def presets() -> dict[str, tuple[str, str, str]]:
    """Variable -> (on A2, on A3, why), of scripts/launch/ascend.sh."""
    (table,) = re.findall(r"^ascend_presets='\n(.*?)^'", (ROOT / "scripts/launch/ascend.sh").read_text(), re.M | re.S)
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    return {name: (a2, a3, why) for name, a2, a3, why in rows}


def _recipes() -> list[str]:
    lines = [
        "| recipe | nodes x devices | TP x PP x DP | recomputed | sequence | micro / global batch | parameters "
        "| first rank, GiB | last rank, GiB | fullest, of 60.96 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for script in SCRIPTS:
        (_, nodes, per_node, run), memory = recipe(script), counted(script)
        m, p = run.model, run.parallel
        recomputed = f"{m.recompute_num_layers} of {run.layers_per_chunk} layers" if m.recompute_granularity else "none"
        cells = [
            f"[{Path(script).stem.removeprefix('pretrain_')}](../{script})",
            f"{nodes} x {per_node}",
            f"{p.tensor_model_parallel_size} x {p.pipeline_model_parallel_size} x {run.data_parallel_size}",
            recomputed,
            str(m.seq_length),
            f"{run.training.micro_batch_size} / {run.global_batch_size}",
            f"{memory.parameters:,}",
            f"{memory.stages[0].total / GIB:.2f}",
            f"{memory.stages[-1].total / GIB:.2f}",
            f"{memory.peak / GIB:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _presets() -> list[str]:
    rows = [f"| `{name}` | {a2} | {a3} | {why} |" for name, (a2, a3, why) in presets().items()]
    return ["| variable | A2 | A3 | why |", "|---|---|---|---|", *rows]


def with_tables(text: str) -> str:
    """The document with its tables as they should be."""
    for name, lines in (("recipes", _recipes()), ("presets", _presets())):
        table = "\n".join([f"<!-- table {name} -->", *lines, f"<!-- end {name} -->"])
        text, found = re.subn(rf"<!-- table {name} -->.*?<!-- end {name} -->", lambda _, t=table: t, text, flags=re.S)
        assert found == 1, name
    return text


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
