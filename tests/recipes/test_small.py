"""A recipe made small, and not changed otherwise, trains on four processes and continues from its checkpoint."""

import json
import math
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from ascendspeed.training import flags, tokenizer
from tests.recipes.recipes import recipe
from tests.support.ranks import run_ranks

# With data, tensor and sequence parallelism, the overlapped distributed optimizer and recomputation.
SCRIPT = "examples/qwen25/pretrain_qwen25_7b_32k_a2.sh"
SMALL = """
    --device cpu --tensor-model-parallel-size 2 --num-layers 3 --recompute-num-layers 2 --hidden-size 32
    --num-attention-heads 4 --num-query-groups 2 --ffn-hidden-size 64 --padded-vocab-size 512 --seq-length 32
    --max-position-embeddings 32 --global-batch-size 4 --train-iters 4 --lr 1e-2 --min-lr 1e-3 --log-interval 1
    --eval-iters 1 --eval-interval 2 --save-interval 2 --split 90,10,0 --num-workers 0
"""


def _train(*commands: list[str]) -> None:
    """Train each command in turn."""
    from ascendspeed.training.loop import train

    for command in commands:
        train(flags.parse(command, world_size=4))


@pytest.mark.distributed
def test_a_small_one_trains_and_continues(tmp_path: Path):
    text = list(topics.values())[:30]
    tokenizer.train(text, 512).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("\n\n".join(text))
    save = tmp_path / "save"
    paths = ["--data-path", tmp_path / "text.txt", "--tokenizer-model", tmp_path / "tokenizer.json"]
    folders = ["--save", save, "--load", save]
    argv = [*recipe(SCRIPT).flags, *SMALL.split(), *map(str, paths + folders)]
    run_ranks(4, _train, [*argv, "--exit-interval", "2"], argv, device="cpu")
    history = [json.loads(line) for line in (save / "history.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in history if "loss" in record]
    assert len(losses) == 4
    assert losses[-1] < losses[0] < 1.1 * math.log(512)
    assert (save / "latest_checkpointed_iteration.txt").read_text() == "4"
