"""The flags under DeepSpeed: those of the trainer, less what ZeRO replaces, each with an effect or a refusal."""

import dataclasses
from pathlib import Path

import pytest

from ascendspeed.training import configs
from ascendspeed.training import flags as megatron_flags
from ascendspeed.training.deepspeed import flags
from ascendspeed.training.mistakes import Mistake
from tests.training.settings import SMALL

ROOT = Path(__file__).parents[3]
JSON = ["--deepspeed-config", str(ROOT / "examples" / "deepspeed" / "zero2.json")]


def refusal(*more: str, world_size: int = 2) -> str:
    with pytest.raises(Mistake) as caught:
        flags.parse([*SMALL, *more], world_size=world_size)
    return str(caught.value)


def test_slices_of_a_sequence_are_no_samples():
    run, _ = flags.parse([*SMALL, *JSON, "--ds-sequence-parallel-size", "2", "--deepspeed"], world_size=8)
    assert (run.world_size, run.sequence_slices, run.data_parallel_size, run.global_batch_size) == (8, 2, 4, 8)


def test_the_name_of_deepspeeds_own_flag_is_taken_too():
    assert flags.parse([*SMALL, "--deepspeed_config", JSON[1]], world_size=1)[0].deepspeed.deepspeed_config == JSON[1]


@pytest.mark.parametrize("name", flags.NOT_HONOURED)
def test_what_zero_replaces_is_refused_by_name(name):
    (field,) = [f for group in megatron_flags.GROUPS.values() for f in dataclasses.fields(group) if f.name == name]
    word = "--" + name.replace("_", "-")
    values = [] if field.type is bool else ["1" if name.startswith("num_") else "2"]
    tp, pp = ["--tensor-model-parallel-size", "2"], ["--pipeline-model-parallel-size", "2"]
    more = {  # what makes the flag legal without DeepSpeed
        "sequence_parallel": tp,
        "num_layers_per_virtual_pipeline_stage": pp,
        "num_virtual_stages_per_pipeline_rank": pp,
        "ddp_bucket_size": ["--overlap-grad-reduce"],
        "overlap_param_gather": ["--overlap-grad-reduce", "--use-distributed-optimizer"],
        "grad_reduce_in_bf16": ["--bf16"],
    }.get(name, [])
    run = megatron_flags.parse([*SMALL, word, *values, *more], world_size=2)
    assert any(said.startswith(f"{word} is not honoured with DeepSpeed") for said in flags._mistakes(run, 1))
    assert "is not honoured with DeepSpeed" in refusal(*JSON, word, *values, *more)


def test_every_parallel_flag_is_decided():
    """A flag that the trainer learns later is honoured here, or this list says that it is not."""
    honoured = {"distributed_timeout_minutes", "device"}
    names = {f.name for f in dataclasses.fields(configs.ParallelConfig)}
    assert names == honoured | set(flags.NOT_HONOURED) - {"reset_attention_mask"}


def test_what_a_micro_batch_may_hold_is_known():
    """The step hands on tokens, positions, labels and prefixes; packed documents are refused."""
    masks = {"reset_position_ids", "reset_attention_mask", "prefix_lm", "prefix_end_token", "eod_mask_loss"}
    others = {"data_path", "split", "data_cache_path", "tokenizer_type", "tokenizer_model", "vocab_size", "num_workers"}
    assert {f.name for f in dataclasses.fields(configs.DataConfig)} == masks | others


def test_rules_between_the_flags():
    assert refusal() == "the following arguments are required: --deepspeed-config/--deepspeed_config"
    assert (
        refusal(*JSON, "--ds-sequence-parallel-size", "3")
        == "--ds-sequence-parallel-size=3 does not divide 2 processes"
    )
    assert refusal(*JSON, "--ds-sequence-parallel-size", "two").startswith(
        "argument --ds-sequence-parallel-size: invalid"
    )
    odd = ["--ds-sequence-parallel-size", "2", "--seq-length", "15"]
    assert refusal(*JSON, *odd) == "--seq-length=15 is not divisible by --ds-sequence-parallel-size=2"
    alibi = ["--ds-sequence-parallel-size", "2", "--position-embedding-type", "alibi"]
    assert refusal(*JSON, *alibi).startswith(
        "--position-embedding-type alibi with --ds-sequence-parallel-size=2 is not"
    )
    assert refusal(*JSON, "--num-layer", "3").startswith("--num-layer is not a flag")


def test_without_deepspeed_its_flags_are_refused():
    with pytest.raises(Mistake, match="--ds-sequence-parallel-size is not a flag"):
        megatron_flags.parse([*SMALL, "--ds-sequence-parallel-size", "2"], world_size=2)


def test_the_docs_have_the_tables():
    assert flags.markdown() in (ROOT / "docs" / "deepspeed.md").read_text(encoding="utf-8")
