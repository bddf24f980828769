"""The command line: every flag is honoured, accepted for a reason or refused by name; the rules name flag and value."""

import dataclasses
from pathlib import Path

import pytest

from ascendspeed.training import configs, flags, known_flags
from ascendspeed.training.mistakes import Mistake
from tests.training.settings import SMALL

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def refusal(*more: str, world_size: int = 1) -> str:
    with pytest.raises(Mistake) as caught:
        flags.parse([*SMALL, *more], world_size=world_size)
    return str(caught.value)


def test_settings_become_typed_and_frozen():
    run = flags.parse([*SMALL, "--bf16", "--lr=5e-4", "--data-path", "a.txt"], world_size=1)
    assert run.model.bf16 is True
    assert run.optimizer.lr == 5e-4
    assert run.data.data_path == ("a.txt",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.optimizer.lr = 1.0  # type: ignore[misc]


def test_a_later_flag_wins_over_an_earlier_one():
    assert flags.parse([*SMALL, "--train-iters", "7"], world_size=1).training.train_iters == 7


# Read from megatron/training/arguments.py and the configuration classes of Megatron-LM's core_r0.16.0.
MEGATRON_DEFAULTS = {
    "kv_channels": None,
    "ffn_hidden_size": None,
    "position_embedding_type": "learned_absolute",
    "rotary_base": 10000,
    "rotary_percent": 1.0,
    "normalization": "LayerNorm",
    "window_size": None,
    "window_attn_skip_freq": None,
    "norm_epsilon": 1e-5,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
    "init_method_std": 0.02,
    "make_vocab_size_divisible_by": 128,
    "recompute_granularity": None,
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "num_layers_per_virtual_pipeline_stage": None,
    "num_virtual_stages_per_pipeline_rank": None,
    "ddp_bucket_size": None,
    "distributed_timeout_minutes": 10,
    "global_batch_size": None,
    "seed": 1234,
    "min_lr": 0.0,
    "lr_decay_style": "linear",
    "lr_decay_iters": None,
    "lr_warmup_iters": 0,
    "lr_warmup_fraction": None,
    "lr_warmup_init": 0.0,
    "weight_decay": 0.01,
    "clip_grad": 1.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_eps": 1e-8,
    "split": "969,30,1",
    "num_workers": 2,
    "log_interval": 100,
    "eval_interval": None,
    "eval_iters": 100,
}


@pytest.mark.parametrize("name", MEGATRON_DEFAULTS)
def test_defaults_are_megatrons(name):
    declared = {f.name: f.default for group in flags.GROUPS.values() for f in dataclasses.fields(group)}
    assert declared[name] == MEGATRON_DEFAULTS[name]


def test_every_honoured_flag_but_ours_is_one_of_megatrons():
    names = {f.name.replace("_", "-") for group in flags.GROUPS.values() for f in dataclasses.fields(group)}
    assert names - known_flags.MEGATRON_LM == {"device", "prefix-lm", "prefix-end-token"}
    ours = {
        f.name for group in flags.GROUPS.values() for f in dataclasses.fields(group) if "(ours)" in f.metadata["help"]
    }
    assert ours == {"device", "prefix_lm", "prefix_end_token"}
    assert "unless marked (ours)" in DOCS.read_text(encoding="utf-8")


def test_an_unknown_flag_comes_with_a_suggestion():
    assert refusal("--num-layer", "3") == "--num-layer is not a flag; did you mean --num-layers?"
    assert refusal("--zzz") == "--zzz is not a flag; --help lists them"


def test_known_flags_that_are_not_honoured_are_refused():
    assert "--moe-router-topk is a flag of Megatron-LM" in refusal("--moe-router-topk", "2")
    assert "--stage is a flag of MindSpeed-LLM" in refusal("--stage", "sft")
    assert refusal("--fp16").startswith("--fp16: ")


def test_no_known_flag_is_ignored():
    """Each is declared (so it has an effect), accepted for a reason, or an error that names it."""
    honoured = {"--" + f.name.replace("_", "-") for group in flags.GROUPS.values() for f in dataclasses.fields(group)}
    known = {f"--{name}" for name in known_flags.MEGATRON_LM | known_flags.MINDSPEED_LLM} | set(flags.REFUSED)
    assert len(known) > 700
    for flag in known - honoured - set(flags.ACCEPTED):
        assert flag in refusal(flag)


@pytest.mark.parametrize("flag", flags.ACCEPTED)
def test_accepted_flags_change_nothing_and_refuse_other_values(flag):
    plain = flags.parse(SMALL, world_size=1)
    values = flags.ACCEPTED[flag].values
    for value in values or (None,):
        assert flags.parse([*SMALL, flag, *([value] if value else [])], world_size=1) == plain
    if values:
        assert f"{flag} other: " in refusal(flag, "other")
        assert f"{flag} other: " in refusal(f"{flag}=other")


def test_context_parallelism_is_refused_with_a_sentence():
    assert "context parallelism is not there yet" in refusal("--context-parallel-size", "2")


def test_rotary_has_two_names():
    by_switch = flags.parse([*SMALL, "--use-rotary-position-embeddings"], world_size=1)
    by_type = flags.parse([*SMALL, "--position-embedding-type", "rope"], world_size=1)
    assert by_switch == by_type


ROPE = ["--position-embedding-type", "rope"]
PREFIX = ["--prefix-lm", "--prefix-end-token", "5"]
FULL = ["--recompute-granularity", "full", "--recompute-method"]
RULES = [
    (["--num-layers", "0"], "--num-layers=0 is not positive"),
    (["--num-attention-heads", "3"], "--num-attention-heads=3 does not divide --hidden-size=32"),
    (["--group-query-attention", "--num-query-groups", "3"], "--num-query-groups=3 does not divide"),
    (["--num-query-groups", "2"], "has no effect without --group-query-attention"),
    (["--max-position-embeddings", "8"], "--max-position-embeddings=8 is less than --seq-length=16"),
    (["--hidden-size", "16", "--swiglu"], "--hidden-size=16 with --swiglu gives an MLP of width 0; give --ffn-hidden"),
    (["--ffn-hidden-size", "0"], "--ffn-hidden-size=0 is not positive"),
    (["--padded-vocab-size", "0"], "--padded-vocab-size=0 is not positive"),
    (["--sequence-parallel"], "--sequence-parallel needs --tensor-model-parallel-size"),
    (["--global-batch-size", "5"], "--global-batch-size=5 is not divisible by --micro-batch-size=2"),
    (["--attention-dropout", "1"], "--attention-dropout=1.0 is not at least 0 and below 1"),
    (["--hidden-dropout", "1"], "--hidden-dropout=1.0 is not at least 0 and below 1"),
    (["--hidden-dropout", "-0.1"], "--hidden-dropout=-0.1 is not at least 0 and below 1"),
    (["--adam-beta1", "2"], "--adam-beta1=2.0 is not at least 0 and below 1"),
    (["--adam-beta2", "1"], "--adam-beta2=1.0 is not at least 0 and below 1"),
    (["--rotary-percent", "1.5"], "--rotary-percent=1.5 is not between 0 and 1"),
    (["--seed", "-1"], "--seed=-1 is not between 0 and 2**32 - 1"),
    (["--seed", "4294967296"], "--seed=4294967296 is not between 0 and 2**32 - 1"),
    (["--adam-eps=-0.1"], "--adam-eps=-0.1 is negative"),
    (["--norm-epsilon=-0.1"], "--norm-epsilon=-0.1 is negative"),
    (["--init-method-std", "-0.1"], "--init-method-std=-0.1 is negative"),
    (["--rotary-base", "0"], "--rotary-base=0 is not positive"),
    (["--lr", "inf"], "--lr=inf is not a finite number"),
    (["--lr-warmup-fraction", "nan"], "--lr-warmup-fraction=nan is not a finite number"),
    ([*ROPE, "--kv-channels", "7"], "--rotary-percent=1.0 of a head of size 7 (--kv-channels) is 7"),
    ([*ROPE, "--rotary-percent", "0.4"], "--rotary-percent=0.4 of a head of size 8 (--kv-channels) is 3"),
    (["--recompute-method", "uniform"], "need --recompute-granularity full"),
    (["--recompute-granularity", "full"], "needs --recompute-method and --recompute-num-layers"),
    ([*FULL, "uniform", "--recompute-num-layers", "0"], "--recompute-num-layers=0 is not positive"),
    ([*FULL, "block", "--recompute-num-layers", "-1"], "--recompute-num-layers=-1 is not positive"),
    ([*FULL, "uniform", "--recompute-num-layers", "2", "--num-layers", "3"], "=2 does not divide --num-layers=3"),
    ([*FULL, "block", "--recompute-num-layers", "3"], "--recompute-num-layers=3 is more than --num-layers=2"),
    (["--min-lr", "1"], "--min-lr=1.0 is not between 0 and --lr"),
    (["--lr-warmup-iters", "6"], "a warm-up of 6 iterations is not shorter than --lr-decay-iters=6"),
    (["--lr-warmup-iters", "1", "--lr-warmup-fraction", "0.1"], "exclude each other"),
    (["--weight-decay", "-1"], "--weight-decay=-1.0 is negative"),
    (["--window-size", "3,1"], "--window-size=3,1: the layers are causal and see no later key; RIGHT must be 0"),
    (["--window-size", "3"], "argument --window-size: '3' is not LEFT,RIGHT"),
    (["--window-size", "999999,0"], "--window-size=999999,0 has no effect at --seq-length=16"),
    (["--window-size", "15,0"], "--window-size=15,0 has no effect at --seq-length=16"),
    (["--window-size=-1,0"], "--window-size=-1,0 has no effect at --seq-length=16"),
    (["--window-size", "3,0", *PREFIX], "--window-size=3,0 and --prefix-lm exclude each other"),
    (["--window-attn-skip-freq", "2"], "--window-attn-skip-freq=2 has no effect without --window-size"),
    (["--window-size=3,0", "--window-attn-skip-freq", "1"], "--window-attn-skip-freq=1 leaves no layer a window"),
    (["--window-size=3,0", "--window-attn-skip-freq", "[0]*2"], "=[0, 0] leaves no layer a window"),
    (["--window-size=3,0", "--window-attn-skip-freq", "[1]"], "=[1] has 1 entries for --num-layers=2"),
    (["--window-size=3,0", "--window-attn-skip-freq", "x"], "argument --window-attn-skip-freq: 'x' is neither"),
    ([*ROPE, "--reset-position-ids"], "--reset-position-ids has no effect with --position-embedding-type=rope"),
    (["--prefix-lm"], "--prefix-lm needs --prefix-end-token"),
    (["--prefix-end-token", "5"], "--prefix-end-token=5 has no effect without --prefix-lm"),
    (["--data-path", "a", "b"], "--data-path: 2 paths"),
    (["--exit-on-missing-checkpoint"], "--exit-on-missing-checkpoint needs --load"),
    (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
    (["--normalization", "BatchNorm"], "argument --normalization: invalid choice: 'BatchNorm'"),
    (["stray"], "unrecognized arguments: stray"),
]


def test_a_part_of_the_layers_may_be_recomputed():
    run = flags.parse([*SMALL, *FULL, "block", "--num-layers", "3", "--recompute-num-layers", "2"], world_size=1)
    assert run.model.recompute_num_layers == 2


@pytest.mark.parametrize(("more", "message"), RULES)
def test_a_broken_rule_names_the_flag_and_the_value(more, message):
    assert message in refusal(*more)


def test_heads_must_be_divisible_by_the_tensor_parallel_size():
    assert "--num-attention-heads=4 is not divisible by --tensor-model-parallel-size=8" in refusal(
        "--tensor-model-parallel-size", "8", world_size=8
    )
    assert "--tensor-model-parallel-size=2 does not divide 3 processes" in refusal(
        "--tensor-model-parallel-size", "2", world_size=3
    )


def test_given_vocabulary_rows_must_be_divisible_by_the_tensor_parallel_size():
    assert "--padded-vocab-size=129 is not divisible by --tensor-model-parallel-size=2" in refusal(
        "--padded-vocab-size", "129", "--tensor-model-parallel-size", "2", world_size=2
    )


def test_the_mlp_must_be_divisible_by_the_tensor_parallel_size():
    three = ["--num-attention-heads", "3", "--tensor-model-parallel-size", "3"]
    assert "--ffn-hidden-size=40 is not divisible by --tensor-model-parallel-size=3" in refusal(
        *three, "--hidden-size", "48", "--ffn-hidden-size", "40", world_size=3
    )
    assert "--ffn-hidden-size=128 (its default here) is not divisible by" in refusal(
        *three, "--hidden-size", "48", "--swiglu", world_size=3
    )


PP2 = ["--pipeline-model-parallel-size", "2", "--num-layers", "4"]
INTERLEAVED = [*PP2, "--num-layers-per-virtual-pipeline-stage"]
PARALLEL_RULES = [
    (["--pipeline-model-parallel-size", "0"], "--pipeline-model-parallel-size=0 is not positive"),
    (["--pipeline-model-parallel-size", "3"], "-size=1 x --pipeline-model-parallel-size=3 does not divide 4 processes"),
    ([*PP2, "--num-layers", "3"], "--num-layers=3 is not divisible by --pipeline-model-parallel-size=2"),
    ([*INTERLEAVED, "0"], "--num-layers-per-virtual-pipeline-stage=0 is not positive"),
    ([*INTERLEAVED, "3"], "--num-layers-per-virtual-pipeline-stage=3 does not divide the 2 layers of a pipeline stage"),
    ([*INTERLEAVED, "4"], "--num-layers-per-virtual-pipeline-stage=4 does not divide the 2 layers of a pipeline stage"),
    ([*PP2, "--num-virtual-stages-per-pipeline-rank", "4"], "rank=4 does not divide the 2 layers of a pipeline stage"),
    ([*INTERLEAVED, "1", "--num-virtual-stages-per-pipeline-rank", "2"], "=1 and --num-virtual-stages-per-pipeline-"),
    (["--num-virtual-stages-per-pipeline-rank", "2"], "rank=2 interleaves pipeline stages and needs --pipeline-model-"),
    (
        ["--num-layers-per-virtual-pipeline-stage", "1"],
        "stage=1 interleaves pipeline stages and needs --pipeline-model",
    ),
    (
        [*INTERLEAVED, "1", "--global-batch-size", "12"],
        "--num-layers-per-virtual-pipeline-stage=1 needs a number of micro-batches that "
        "--pipeline-model-parallel-size=2 divides, but --global-batch-size=12 makes 3 of 4 samples each",
    ),
    (
        [*PP2, *FULL, "uniform", "--recompute-num-layers", "4"],
        "--recompute-num-layers=4 does not divide the 2 layers of a model chunk (--num-layers=4, "
        "--pipeline-model-parallel-size=2)",
    ),
    (
        [*INTERLEAVED, "1", "--global-batch-size", "8", *FULL, "uniform", "--recompute-num-layers", "2"],
        "--recompute-num-layers=2 does not divide the 1 layers of a model chunk (--num-layers=4, "
        "--pipeline-model-parallel-size=2, --num-layers-per-virtual-pipeline-stage=1)",
    ),
    (
        [*PP2, *FULL, "block", "--recompute-num-layers", "3"],
        "--recompute-num-layers=3 is more than the 2 layers of a model chunk (--num-layers=4, "
        "--pipeline-model-parallel-size=2), and --recompute-method block counts in each chunk",
    ),
    (["--ddp-bucket-size", "9"], "--ddp-bucket-size=9 has no effect without --overlap-grad-reduce"),
    (["--ddp-bucket-size", "0", "--overlap-grad-reduce"], "--ddp-bucket-size=0 is not positive"),
    (["--grad-reduce-in-bf16"], "--grad-reduce-in-bf16 needs --bf16"),
    (["--overlap-param-gather", "--overlap-grad-reduce"], "--overlap-param-gather needs --overlap-grad-reduce and"),
    (["--overlap-param-gather", "--use-distributed-optimizer"], "--overlap-param-gather needs --overlap-grad-reduce"),
    (
        ["--recompute-activations", *FULL, "uniform", "--recompute-num-layers", "1"],
        "--recompute-activations is --recompute-granularity selective, but --recompute-granularity=full is given",
    ),
    *(
        (
            ["--use-rotary-position-embeddings", "--position-embedding-type", kind],
            "--use-rotary-position-embeddings is --position-embedding-type rope, "
            f"but --position-embedding-type={kind} is given",
        )
        for kind in ("alibi", "learned_absolute")
    ),
]


@pytest.mark.parametrize(("more", "message"), PARALLEL_RULES)
def test_a_broken_rule_of_parallelism_names_the_flags_and_their_values(more, message):
    assert message in refusal(*more, world_size=4)


def test_interleaving_has_two_names():
    by_layers = flags.parse([*SMALL, *INTERLEAVED, "1", "--global-batch-size", "8"], world_size=4)
    by_chunks = flags.parse(
        [*SMALL, *PP2, "--num-virtual-stages-per-pipeline-rank", "2", "--global-batch-size", "8"], world_size=4
    )
    for run in (by_layers, by_chunks):
        assert (run.virtual_stages, run.layers_per_chunk, run.data_parallel_size, run.num_microbatches) == (2, 1, 2, 2)
    assert flags.parse([*SMALL, *INTERLEAVED, "2"], world_size=2).virtual_stages == 1


def test_selective_recomputation_has_two_names():
    by_switch = flags.parse([*SMALL, "--recompute-activations"], world_size=1)
    assert by_switch == flags.parse([*SMALL, "--recompute-granularity", "selective"], world_size=1)
    assert by_switch.model.recompute_granularity == "selective"


def test_masks_that_go_together_pass():
    run = flags.parse([*SMALL, *PREFIX, *ROPE, "--reset-attention-mask", "--reset-position-ids"], world_size=1)
    assert (run.data.prefix_lm, run.data.reset_attention_mask) == (True, True)
    run = flags.parse([*SMALL, "--window-size=7,0", "--window-attn-skip-freq", "[1,0]"], world_size=1)
    assert (run.model.window_size, run.model.window_attn_skip_freq) == ((7, 0), (1, 0))
    assert flags.parse([*SMALL, "--window-size=14,0"], world_size=1).model.window_size == (14, 0)
    assert flags.parse([*SMALL, "--reset-position-ids"], world_size=1).data.reset_position_ids


def test_required_flags_are_asked_for():
    with pytest.raises(Mistake, match=r"required: .*--num-layers"):
        flags.parse([], world_size=1)


def test_sizes_that_follow_from_others():
    run = flags.parse([*SMALL, "--tensor-model-parallel-size", "2", "--lr-warmup-fraction", "0.5"], world_size=4)
    assert (run.data_parallel_size, run.global_batch_size, run.num_microbatches) == (2, 4, 1)
    assert (run.lr_decay_iters, run.lr_warmup_iters) == (6, 3)


def test_the_tables_in_the_docs_are_these():
    assert flags.markdown() in DOCS.read_text(encoding="utf-8"), (
        "docs/training.md is out of date: paste the output of python -m ascendspeed.training.flags"
    )


def test_every_help_text_is_there_and_help_prints_them(capsys):
    with pytest.raises(SystemExit) as left:
        flags.parse(["--help"], world_size=1)
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "--tensor-model-parallel-size" in shown
    assert "--use-flash-attn" in shown
    assert all(f.metadata["help"] for f in dataclasses.fields(configs.ModelConfig))
