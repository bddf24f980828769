"""The whole program: the same seed gives the same bits, a resume leaves no trace, a mistake is one line everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascendspeed.training import flags
from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.pretrain_gpt import main
from tests.support.ranks import run_ranks
from tests.training.settings import SMALL

TINY = [*SMALL, "--vocab-size", "300", "--split", "90,10,0", "--eval-iters", "2"]
TP2 = ["--tensor-model-parallel-size", "2", "--sequence-parallel"]


def history(save: Path) -> list[dict]:
    return [json.loads(line) for line in (save / "history.jsonl").read_text().splitlines()]


def losses(save: Path) -> list[float]:
    return [record["loss"] for record in history(save) if "loss" in record]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> list[str]:
    return ["--data-cache-path", str(tmp_path_factory.mktemp("cache"))]


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory, cache) -> Path:
    """The folder of a finished run with dropout, so that the generators matter."""
    save = tmp_path_factory.mktemp("one") / "save"
    main(
        [*TINY, *cache, "--hidden-dropout", "0.1", "--save", str(save), "--save-interval", "4", "--eval-interval", "4"]
    )
    return save


def test_a_run_leaves_what_the_docs_say(one_rank):
    names = {entry.name for entry in one_rank.iterdir()}
    assert names == {
        "configuration.json",
        "history.jsonl",
        "iter_0000004",
        "iter_0000006",
        "latest_checkpointed_iteration.txt",
        "loss.png",
        "tensorboard",
    }
    assert (one_rank / "latest_checkpointed_iteration.txt").read_text() == "6"
    assert [r["iteration"] for r in history(one_rank) if "validation_loss" in r] == [4, 6]
    assert len(losses(one_rank)) == 6
    assert losses(one_rank)[-1] < losses(one_rank)[0]


def test_tensorboard_events_hold_every_loss(one_rank):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(one_rank / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses(one_rank))
    assert {"grad norm", "lr", "validation loss", "speed/tokens per second"} <= set(events.Tags()["scalars"])


def test_the_same_seed_gives_the_same_bits(one_rank, tmp_path, cache):
    again = tmp_path / "again"
    main([*TINY, *cache, "--hidden-dropout", "0.1", "--save", str(again), "--eval-interval", "4"])
    assert history(again) == history(one_rank)


def test_another_seed_gives_others(one_rank, tmp_path, cache):
    main([*TINY, *cache, "--hidden-dropout", "0.1", "--save", str(tmp_path / "other"), "--seed", "7"])
    assert losses(tmp_path / "other") != losses(one_rank)


def test_a_resumed_run_is_the_uninterrupted_one(one_rank, tmp_path, cache):
    save = str(tmp_path / "save")
    command = [*TINY, *cache, "--hidden-dropout", "0.1", "--save", save, "--load", save, "--eval-interval", "4"]
    main([*command, "--exit-interval", "3"])
    assert len(losses(tmp_path / "save")) == 3
    main(command)
    assert history(tmp_path / "save") == history(one_rank)


def test_a_finished_run_validates_again_and_trains_nothing(one_rank, cache, capsys):
    before = history(one_rank)
    main([*TINY, *cache, "--hidden-dropout", "0.1", "--save", str(one_rank), "--load", str(one_rank)])
    assert history(one_rank) == before
    shown = capsys.readouterr().out
    assert "continuing after iteration 6" in shown
    assert "tokens/s" not in shown
    assert "unigram entropy of the validation text" in shown


def test_the_log_has_every_number(tmp_path, cache, capsys):
    main([*TINY, *cache])
    shown = capsys.readouterr().out
    assert "attention layers 1-2 | mask causal" in shown
    assert "sparse_mode 2" in shown
    for word in ("iteration      6/6", "loss", "grad norm", "lr 0.0", "ms/it", "tokens/s", "perplexity"):
        assert word in shown.replace("lr 1.667e-03", "lr 0.0"), word


@pytest.mark.parametrize(
    "more",
    [
        "--recompute-granularity selective",
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
        "--micro-batch-size 1 --global-batch-size 2",
    ],
)
def test_what_may_not_change_the_losses(one_rank, tmp_path, cache, more):
    """Recomputation and more micro-batches are other ways to the same numbers, dropout aside."""
    main([*TINY, *cache, "--save", str(tmp_path / "plain")])
    main([*TINY, *cache, "--save", str(tmp_path / "other"), *more.split()])
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        "--bf16",
        "--position-embedding-type rope --normalization RMSNorm --swiglu --disable-bias-linear --add-qkv-bias",
        "--group-query-attention --num-query-groups 2 --qk-layernorm --untie-embeddings-and-output-weights",
        "--position-embedding-type none --kv-channels 16 --ffn-hidden-size 48 --eod-mask-loss --clip-grad 0",
        "--num-workers 1 --lr-decay-style cosine --lr-warmup-iters 2",
    ],
)
def test_kinds_of_model_train_and_resume(tmp_path, cache, more):
    command = [*TINY, *cache, *more.split()]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main([*command, "--save", str(whole)])
    main([*command, "--save", str(parts), "--load", str(parts), "--exit-interval", "3"])
    main([*command, "--save", str(parts), "--load", str(parts)])
    assert losses(parts) == losses(whole)
    assert losses(whole)[-1] < losses(whole)[0]


@pytest.mark.slow
def test_it_learns_more_than_how_frequent_the_tokens_are(tmp_path, cache, capsys):
    main(
        f"{' '.join(TINY)} --hidden-size 64 --seq-length 64 --max-position-embeddings 64 --micro-batch-size 8 "
        f"--train-iters 250 --vocab-size 512 --position-embedding-type rope --save {tmp_path / 's'} --log-interval 50 "
        "--full-validation".split()
        + cache
    )
    unigram = float(capsys.readouterr().out.split("unigram entropy of the validation text: ")[1].split(",")[0])
    assert history(tmp_path / "s")[-1]["validation_loss"] < unigram - 0.5


def test_without_clipping_the_norm_is_measured_all_the_same(tmp_path, cache):
    """--clip-grad 0 changes the steps, not the report: the first gradient is the same with and without."""
    first = {}
    for clip in ("0", "0.001"):
        save = tmp_path / clip
        main([*TINY, *cache, "--train-iters", "2", "--clip-grad", clip, "--save", str(save)])
        first[clip] = history(save)[0]["grad_norm"]
    assert first["0"] == first["0.001"] > 0.001


def test_a_run_that_diverges_says_so(tmp_path, cache, capsys):
    with pytest.raises(SystemExit) as left:
        main([*TINY, *cache, "--lr", "1e30", "--clip-grad", "0"])
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: training diverged: loss")


MISTAKES = [
    (["--data-path", "nowhere.txt"], "error: --data-path nowhere.txt: there is neither"),
    (["--device", "tpu"], "error: --device: device 'tpu' is not one of"),
    (
        ["--seq-length", "400000", "--max-position-embeddings", "400000"],
        "error: --seq-length=400000 needs 400001 tokens",
    ),
    (["--num-layer", "2"], "error: --num-layer is not a flag; did you mean --num-layers?"),
    (["--split", "0,1"], "error: --split 0,1: "),
    (
        ["--hidden-size", "2000", "--num-attention-heads", "2"],
        "error: the attention operator does not take --seq-length=16 with --num-attention-heads=2 of size 1000",
    ),
]


@pytest.mark.parametrize(("more", "line"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_no_configuration(tmp_path, cache, capsys, more, line):
    with pytest.raises(SystemExit) as left:
        main([*TINY, *cache, "--save", str(tmp_path / "save"), *more])
    assert left.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert [each.startswith(line) for each in said if each.startswith("error")] == [True]
    assert not (tmp_path / "save").exists()


def test_a_save_folder_of_another_configuration_stays_as_it_is(one_rank, cache, capsys):
    before = {f: f.stat().st_mtime_ns for f in one_rank.rglob("*")}
    with pytest.raises(SystemExit):
        main([*TINY, *cache, "--hidden-dropout", "0.1", "--save", str(one_rank), "--load", str(one_rank), "--lr", "1"])
    assert "belongs to another configuration: --lr is 0.01 there and 1.0 here" in capsys.readouterr().err
    assert {f: f.stat().st_mtime_ns for f in one_rank.rglob("*")} == before


def _two_ranks(folder: str, commands: list[list[str]]) -> list[str]:
    """On each rank: train each command in turn; return the mistakes."""
    from ascendspeed.training.loop import train

    mistakes = []
    for command in commands:
        try:
            train(flags.parse(command, world_size=2))
        except Mistake as mistake:
            mistakes.append(str(mistake))
    return mistakes


@pytest.mark.distributed
def test_two_ranks(tmp_path, cache):
    """Tensor parallel: same bits again, and after a resume. Data parallel: as one rank. A mistake: on both ranks."""
    dropout = [*TINY, *cache, "--hidden-dropout", "0.1", *TP2]
    batch = [*TINY, *cache, "--micro-batch-size", "1", "--global-batch-size", "4"]

    def saved(name: str) -> list[str]:
        return ["--save", str(tmp_path / name), "--load", str(tmp_path / name)]

    commands = [
        [*dropout, *saved("a")],
        [*dropout, *saved("b"), "--exit-interval", "3"],
        [*dropout, *saved("b")],
        [*batch, *saved("dp")],
        [*batch, *saved("dp again"), "--exit-interval", "3"],
        [*batch, *saved("dp again")],
        [*TINY, *cache, *TP2, "--data-path", "nowhere"],
        [*dropout, *saved("a"), "--lr", "5"],
    ]
    for mistakes in run_ranks(2, _two_ranks, str(tmp_path), commands):
        assert len(mistakes) == 2
        assert "--data-path nowhere" in mistakes[0]
        assert "another configuration: --lr is 0.01 there and 5.0 here" in mistakes[1]
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert history(tmp_path / "dp again") == history(tmp_path / "dp")
    main([*batch, "--save", str(tmp_path / "one")])
    # Sums of 4 samples in another order, through 6 updates of Adam.
    assert losses(tmp_path / "dp") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("--data-path nowhere.txt", "error: --data-path nowhere.txt: there is neither"),
        ("--num-attention-heads 1 --kv-channels 8", "error: --num-attention-heads=1 is not divisible by"),
    ],
)
def test_torchrun_ends_with_one_line_and_an_exit_code(cache, more, line):
    """What rank 0 alone can know, and what is known before there is a process group."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "ascendspeed.training.pretrain_gpt", *TINY, *cache, *TP2, *more.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode != 0
    said = [each for each in done.stderr.splitlines() if "error: " in each]
    assert [each.startswith(line) for each in said] == [True], done.stderr
    assert "ascendspeed/training" not in done.stderr, "a traceback of ours beside torchrun's"
