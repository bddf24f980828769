"""The program under DeepSpeed has the losses of megatron-core's, resumes without a trace, and tells mistakes in a line.

In float32 a loss may differ by 1e-5 of itself from the one of megatron-core: the same sums in another order, through 10
updates of Adam. In bfloat16 every activation is rounded, by up to 2^-9 of itself: 2^-7, four times that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("deepspeed", reason="needs the extra deepspeed: bash scripts/setup.sh train test deepspeed")

from ascendspeed.training import flags as megatron_flags
from ascendspeed.training.deepspeed import flags
from ascendspeed.training.mistakes import Mistake
from tests.support.ranks import run_ranks
from tests.training.settings import SMALL

pytestmark = pytest.mark.distributed

JSON = str(Path(__file__).parents[3] / "examples" / "deepspeed" / "zero2.json")
_TINY = """
    --vocab-size 300 --split 90,10,0 --eval-iters 2 --train-iters 10 --global-batch-size 4 --use-cpu-initialization
    --position-embedding-type rope --group-query-attention --num-query-groups 2 --eod-mask-loss
"""
TINY = [*SMALL, *_TINY.split()]
# The same rows of the embedding as on one process.
TP2 = ["--tensor-model-parallel-size", "2", "--sequence-parallel", "--make-vocab-size-divisible-by", "64"]
ULYSSES = ["--deepspeed-config", JSON, "--ds-sequence-parallel-size", "2"]
ZERO = {
    "zero1": ["--deepspeed-config", "STAGES", "--zero-stage", "1", "--ds-sequence-parallel-size", "2"],
    "zero2": ULYSSES,
    "zero3": ["--deepspeed-config", "STAGES", "--zero-stage", "3", "--ds-sequence-parallel-size", "2"],
    "zero3 without ulysses": ["--deepspeed-config", "STAGES", "--zero-stage", "3", "--micro-batch-size", "1"],
}
# Masks that reach over the whole sequence, which no rank holds.
MASKS = {
    "window": ["--window-size", "9,0"],
    "prefix": ["--prefix-lm", "--prefix-end-token", "."],
}


def losses(save: Path, kind: str = "loss") -> list[float]:
    records = [json.loads(line) for line in (save / "history.jsonl").read_text().splitlines()]
    return [record[kind] for record in records if kind in record]


def _on_each_rank(commands: list[tuple[bool, list[str]]]) -> list[str]:
    """Train each command in turn, under DeepSpeed or not; return the mistakes."""
    from ascendspeed.training import loop
    from ascendspeed.training.deepspeed import loop as deepspeed_loop

    mistakes = []
    for deepspeed, command in commands:
        try:
            if deepspeed:
                deepspeed_loop.train(*flags.parse(command, world_size=2))
            else:
                loop.train(megatron_flags.parse(command, world_size=2))
        except Mistake as mistake:
            mistakes.append(str(mistake))
    return mistakes


def _on_one_rank(commands: list[list[str]]) -> None:
    from ascendspeed.training.loop import train

    for command in commands:
        train(megatron_flags.parse(command, world_size=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder of finished runs: megatron-core's on one and on two processes, DeepSpeed's on two."""
    folder = tmp_path_factory.mktemp("runs")
    stages = folder / "stages.json"
    stages.write_text(json.dumps({"zero_optimization": {"stage": "auto", "stage3_param_persistence_threshold": 0}}))
    tiny = [*TINY, "--data-cache-path", str(folder / "cache")]

    def saved(name: str, load: str = "") -> list[str]:
        return ["--save", str(folder / name), "--load", str(folder / (load or name))]

    one = [[*tiny, *saved("megatron")], [*tiny, *saved("megatron bf16"), "--bf16"]]
    one += [[*tiny, *saved(f"megatron {name}"), *more] for name, more in MASKS.items()]
    run_ranks(1, _on_one_rank, one)
    two = [(False, [*tiny, *saved("megatron tp2"), *TP2])]
    for name, more in ZERO.items():
        two.append((True, [*tiny, *saved(name), *(str(stages) if word == "STAGES" else word for word in more)]))
    two.append((True, [*tiny, *saved("bf16"), *ULYSSES, "--bf16"]))
    two += [(True, [*tiny, *saved(name), *ULYSSES, *more]) for name, more in MASKS.items()]
    dropout = [*tiny, *ULYSSES, "--hidden-dropout", "0.1", "--attention-dropout", "0.1", "--train-iters", "4"]
    three = [*dropout, "--zero-stage", "3", "--deepspeed-config", str(stages)]
    for name, command in (("dropout", dropout), ("dropout zero3", three)):
        two.append((True, [*command, *saved(name)]))
        two.append((True, [*command, *saved(name + " again"), "--exit-interval", "2"]))
        two.append((True, [*command, *saved(name + " again")]))
    mistaken = [
        (True, [*tiny, *ULYSSES, *saved("new", load="megatron")]),
        (False, [*tiny, *saved("new", load="zero2")]),
        (True, [*tiny, *saved("zero2"), *ULYSSES[:2]]),
        (True, [*tiny, *saved("new"), *ULYSSES, "--num-query-groups", "1", "--num-attention-heads", "1"]),
        (True, [*tiny, *saved("new"), *ULYSSES[2:], "--deepspeed-config", str(folder / "odd.json")]),
    ]
    (folder / "odd.json").write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_scatter": "perhaps"}}))
    first, second = run_ranks(2, _on_each_rank, two + mistaken, timeout=500)
    assert first == second
    (folder / "mistakes.json").write_text(json.dumps(first))
    assert not (folder / "new").exists()
    return folder


@pytest.mark.parametrize("name", ["megatron tp2", *ZERO])
def test_the_losses_are_megatrons(folder, name):
    ours, megatrons = losses(folder / name), losses(folder / "megatron")
    print(name, *(f"{a:.7f}/{b:.7f}" for a, b in zip(ours, megatrons, strict=True)))
    assert len(ours) == 10
    assert ours == pytest.approx(megatrons, rel=1e-5)
    assert losses(folder / name, "validation_loss") == pytest.approx(
        losses(folder / "megatron", "validation_loss"), rel=1e-5
    )
    assert losses(folder / name, "grad_norm") == pytest.approx(losses(folder / "megatron", "grad_norm"), rel=1e-4)
    assert losses(folder / name, "lr") == losses(folder / "megatron", "lr")


@pytest.mark.parametrize("name", MASKS)
def test_masks_reach_over_the_whole_sequence(folder, name):
    assert losses(folder / name) == pytest.approx(losses(folder / f"megatron {name}"), rel=1e-5)
    assert losses(folder / name) != pytest.approx(losses(folder / "megatron"), rel=1e-3)


def test_the_losses_are_megatrons_in_bfloat16(folder):
    ours, megatrons = losses(folder / "bf16"), losses(folder / "megatron bf16")
    print(*(f"{a:.5f}/{b:.5f}" for a, b in zip(ours, megatrons, strict=True)))
    assert ours != losses(folder / "zero2")
    assert ours == pytest.approx(megatrons, rel=2**-7)


@pytest.mark.parametrize("name", ["dropout", "dropout zero3"])
def test_a_resumed_run_is_the_uninterrupted_one(folder, name):
    again = folder / f"{name} again"
    assert (again / "history.jsonl").read_text() == (folder / name / "history.jsonl").read_text()
    assert (again / "latest_checkpointed_iteration.txt").read_text() == "4"
    assert {entry.name for entry in again.iterdir() if entry.is_dir()} >= {"iter_0000002", "iter_0000004"}
    assert losses(again) != losses(folder / "zero2")[:4]


def test_mistakes_are_told_on_every_rank_before_anything_is_written(folder):
    other, megatrons, alone, heads, odd = json.loads((folder / "mistakes.json").read_text())
    assert "megatron belongs to another configuration: --zero-stage is None there and 2 here" in other
    assert "zero2 belongs to another configuration: " in megatrons
    assert "trainer is DeepSpeed there and None here" in megatrons
    assert "--ds-sequence-parallel-size is 2 there and 1 here" in alone
    assert heads.startswith("--ds-sequence-parallel-size=2: Ulysses gives each of 2 ranks an equal share of the heads")
    assert odd.startswith("--deepspeed-config: DeepSpeed says: ")
    assert "reduce_scatter" in odd


def test_torchrun_ends_with_one_line_and_an_exit_code():
    """Heads that Ulysses cannot divide: what every rank finds by itself, before there is a process group."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ascendspeed.training.deepspeed.pretrain_gpt", *TINY, *ULYSSES]
    command += ["--num-attention-heads", "3", "--num-query-groups", "3", "--kv-channels", "8"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode != 0
    said = [each for each in done.stderr.splitlines() if "error: " in each]
    assert said == [
        "error: --ds-sequence-parallel-size=2: Ulysses gives each of 2 ranks an equal share of the heads, and 2 does "
        "not divide num_attention_heads=3; take a sequence-parallel size out of [1, 3], or other heads"
    ], done.stderr
    assert "ascendspeed/training" not in done.stderr, "a traceback of ours beside torchrun's"
