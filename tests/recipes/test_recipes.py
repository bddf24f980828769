"""The recipes for Atlas A2 and A3: the published model, on the machine they name, in the memory of its cards."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from ascendspeed.training.memory import GIB, USABLE, report
from ascendspeed.training.memory_activations import activations
from tests.recipes.recipes import ROOT, SCRIPTS, counted, dry_run, presets, recipe, with_tables
from tests.training.traced import trace

pytestmark = pytest.mark.usefixtures("no_process_group")

# The allocator rounds and leaves gaps, kernels have workspaces: what is counted may take this share of a card.
SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Published:
    """A model as its publication describes it. Of a Llama or Qwen the fields of config.json on the Hugging Face hub."""

    total: int
    """Parameters: what the model card, or the index of the checkpoint's tensors, gives."""
    layers: int
    hidden: int
    heads: int
    groups: int
    mlp: int
    vocabulary: int
    qkv_bias: bool = False
    positions: int = 0
    """Learned positions; then the model is a GPT-3: LayerNorm, GELU, biases, the embedding used as output matrix."""

    def count(self) -> int:
        """The parameters, from the fields alone."""
        h, f, head = self.hidden, self.mlp, self.hidden // self.heads
        qkv = h * (self.heads + 2 * self.groups) * head
        if self.positions:
            layer = qkv + 3 * h + h * h + h + (h * f + f) + (f * h + h) + 4 * h
            return self.layers * layer + (self.vocabulary + self.positions) * h + 2 * h
        layer = qkv + h * h + 3 * h * f + 2 * h + (self.heads + 2 * self.groups) * head * self.qkv_bias
        return self.layers * layer + 2 * self.vocabulary * h + h


PUBLISHED = {
    # Brown et al. 2020 round: "6.7B" and "13.0B", the latter with a hidden size of 5140 that its 40 heads of 128 do not
    # have. The totals are those of table 2.1's sizes with 5120, the 50257 tokens of GPT-2's vocabulary, 2048 positions.
    "gpt3_6_7b": Published(6_658_404_352, 32, 4096, 32, 32, 16384, 50257, positions=2048),
    "gpt3_13b": Published(12_853_386_240, 40, 5120, 40, 40, 20480, 50257, positions=2048),
    "llama2_7b": Published(6_738_415_616, 32, 4096, 32, 32, 11008, 32000),
    "llama2_13b": Published(13_015_864_320, 40, 5120, 40, 40, 13824, 32000),
    "llama2_70b": Published(68_976_648_192, 80, 8192, 64, 8, 28672, 32000),
    "llama3_8b": Published(8_030_261_248, 32, 4096, 32, 8, 14336, 128256),
    "llama3_70b": Published(70_553_706_496, 80, 8192, 64, 8, 28672, 128256),
    "qwen25_7b": Published(7_615_616_512, 28, 3584, 28, 4, 18944, 152064, qkv_bias=True),
    "qwen25_14b": Published(14_770_033_664, 48, 5120, 40, 8, 13824, 152064, qkv_bias=True),
    "qwen25_72b": Published(72_706_203_648, 80, 8192, 64, 8, 29568, 152064, qkv_bias=True),
}


def published(script: str) -> Published:
    name = Path(script).stem.removeprefix("pretrain_").rpartition("_")[0]
    return PUBLISHED[name.removesuffix("_32k")]


def test_there_are_recipes_of_every_family_and_size_for_both_machines():
    names = {Path(script).stem.removeprefix("pretrain_") for script in SCRIPTS}
    both = {
        *("gpt3_6_7b", "llama2_7b", "llama2_13b", "llama2_70b", "llama3_8b", "llama3_70b"),
        *("qwen25_7b", "qwen25_14b", "qwen25_72b", "qwen25_7b_32k"),
    }
    assert names == {f"{name}_{machine}" for name in both for machine in ("a2", "a3")} | {"gpt3_13b_a2"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals_follow_from_the_published_sizes(name):
    assert PUBLISHED[name].count() == PUBLISHED[name].total


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_stages_together_are_the_published_model(script):
    """Rows that only pad the vocabulary to the ranks' equal shares are counted apart."""
    model, run = published(script), recipe(script).run
    padding = (run.model.padded_vocab_size - model.vocabulary) * model.hidden
    assert 0 <= padding < 128 * model.hidden
    assert padding == 0 or model.positions, "a published checkpoint has as many rows as the model"
    assert counted(script).parameters - padding == model.total


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_card_holds_the_recipe(script):
    print(f"\n{script}\n{report(recipe(script).run, counted(script))}")
    assert counted(script).peak <= SHARE * USABLE, f"{counted(script).peak / GIB:.2f} GiB"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_activations_of_first_and_last_stage_are_those_of_autograd(script):
    """For one micro-batch through 2 layers of the recipe's sizes, ranks and recomputation; bounds as in
    tests/training/test_memory_activations.py."""
    run = recipe(script).run
    stages = run.parallel.pipeline_model_parallel_size
    recomputed = run.model.recompute_num_layers and 1
    model = dataclasses.replace(run.model, num_layers=2 * stages, recompute_num_layers=recomputed)
    samples = run.training.micro_batch_size * run.data_parallel_size
    training = dataclasses.replace(run.training, global_batch_size=samples)
    short = dataclasses.replace(run, model=model, training=training)
    rows = run.model.padded_vocab_size
    for stage in {0, stages - 1}:
        real, said = trace(short, stage, rows), activations(short, stage, rows)
        assert said.kept >= real.kept
        assert -0.001 <= (said.kept + said.working) / real.peak - 1 <= 0.05


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_recipe_is_for_the_machine_in_its_name(script):
    _, nodes, per_node, run = recipe(script)
    machine = script[-5:-3]
    assert per_node == {"a2": 8, "a3": 16}[machine]
    assert run.parallel.device == "npu"
    assert per_node % run.parallel.tensor_model_parallel_size == 0, "tensor parallelism stays inside a node"
    header = (ROOT / script).read_text().splitlines()[1]
    assert f"on {nodes} Atlas {machine.upper()} node" in header
    assert run.data_parallel_size * run.training.micro_batch_size <= run.global_batch_size


@pytest.mark.parametrize("script", SCRIPTS[::5])
def test_the_callers_flags_win_and_paths_are_asked_for(script):
    given = {"DATA_PATH": "my text.txt", "TOKENIZER_PATH": "t.json"}
    assert dry_run(script, "--lr", "1e-6", **given).stdout.splitlines()[0].endswith("--lr 1e-6 ")
    for missing in given:
        result = dry_run(script, **{name: value for name, value in given.items() if name != missing})
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr.startswith(f"{Path(script).name}: set DATA_PATH (")
        assert result.stderr.count("\n") == 1


def test_a_check_is_the_memory_of_all_ranks_of_all_nodes(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$WORLD_SIZE $*"\n')
    python.chmod(0o755)
    script = (ROOT / "scripts/launch/recipe.sh").read_text()
    for folder in ("scripts/launch", "examples/llama2"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts/launch/recipe.sh").write_text(script)
    for file in ("scripts/launch/ascend.sh", "examples/llama2/llama2_70b.sh"):
        (tmp_path / file).write_text((ROOT / file).read_text())
    (tmp_path / "scripts/setup.sh").write_text(f"echo {python}\n")
    recipe_file = tmp_path / "examples/llama2/pretrain_llama2_70b_a3.sh"
    recipe_file.write_text((ROOT / "examples/llama2/pretrain_llama2_70b_a3.sh").read_text())
    result = dry_run(str(recipe_file), "--lr", "1", CHECK="1", NNODES="8")
    assert result.stdout.startswith("128 -m ascendspeed.training.memory --num-layers 80"), result.stderr
    assert result.stdout.endswith("--lr 1\n")
    result = dry_run(str(recipe_file), CHECK="1", NNODES="many")
    assert result.stderr == "pretrain_llama2_70b_a3.sh: NNODES=many must be a whole number of at least 1\n"


def test_dies_come_in_pairs():
    script = "examples/llama2/pretrain_llama2_7b_a3.sh"
    result = dry_run(script, NPROC_PER_NODE="3", DATA_PATH="d", TOKENIZER_PATH="t")
    assert result.returncode == 1
    assert result.stderr == (
        "pretrain_llama2_7b_a3.sh: NPROC_PER_NODE=3 must be even on Atlas A3: a job takes both dies of a card\n"
    )
    assert dry_run(script, NPROC_PER_NODE="4", DATA_PATH="d", TOKENIZER_PATH="t").returncode == 0


def test_presets_are_exported_and_give_way_to_the_callers():
    def exported(machine: str, **given: str) -> dict[str, str]:
        show = f"source {ROOT}/scripts/launch/ascend.sh {machine} && env"
        result = subprocess.run(
            ["bash", "-c", show], env={"PATH": "/usr/bin:/bin"} | given, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return dict(line.split("=", 1) for line in result.stdout.splitlines())

    for index, machine in enumerate(("a2", "a3")):
        assert {name: exported(machine)[name] for name in presets()} == {n: row[index] for n, row in presets().items()}
    assert exported("a3", HCCL_BUFFSIZE="64", NPROC_PER_NODE="2")["HCCL_BUFFSIZE"] == "64"
    result = subprocess.run(
        ["bash", "-c", f"source {ROOT}/scripts/launch/ascend.sh a4"], capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "name the machine, a2 or a3" in result.stderr


def test_the_document_has_the_tables():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert with_tables(text) == text, "run: python -m tests.recipes.recipes docs/recipes.md"
