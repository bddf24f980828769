"""The count of activations against autograd: what it saves, and the most there is, at the sizes of real models."""

from types import SimpleNamespace

import pytest
from megatron.core.pipeline_parallel.schedules import get_pp_rank_microbatches

from ascendspeed.training import flags
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.memory_activations import activations, in_flight
from tests.training.traced import trace

pytestmark = pytest.mark.usefixtures("no_process_group")

COMMON = (
    "--micro-batch-size 1 --train-iters 1 --lr 1 --device cpu --bf16 --attention-dropout 0 --hidden-dropout 0 "
    "--padded-vocab-size 32000 "
)
LARGE = COMMON + "--num-layers 2 --seq-length 4096 --max-position-embeddings 4096 "
LLAMA = LARGE + (
    "--hidden-size 8192 --num-attention-heads 64 --ffn-hidden-size 28672 --position-embedding-type rope --swiglu "
    "--normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights --group-query-attention "
)
GPT = LARGE + "--hidden-size 4096 --num-attention-heads 32 "
SMALL = COMMON + "--num-layers 3 --hidden-size 64 --num-attention-heads 4 --seq-length 32 --max-position-embeddings 32 "
SMALL_LLAMA = SMALL + (
    "--position-embedding-type rope --swiglu --normalization RMSNorm --disable-bias-linear --group-query-attention "
)
TP = "--sequence-parallel --tensor-model-parallel-size "
PP2 = " --pipeline-model-parallel-size 2 "
SELECTIVE = " --recompute-granularity selective"
UNIFORM = " --recompute-granularity full --recompute-method uniform --recompute-num-layers 1"
BLOCK = " --recompute-granularity full --recompute-method block --recompute-num-layers 1"

ROWS = 32000  # of the vocabulary
SEED = 4  # bytes that a recomputed attention keeps per layer and the formula leaves out: the generator's seed


def settings(words: str, world_size: int = 1) -> RunConfig:
    return flags.parse(words.split(), world_size=world_size)


def chunk(run: RunConfig, stage: int) -> tuple[int, int]:
    """(kept, working) of one micro-batch: with one micro-batch per iteration only one is under way."""
    counted = activations(run, stage, ROWS)
    assert in_flight(run, stage) == 1
    return counted.kept, counted.working


@pytest.mark.parametrize(
    ("words", "world_size", "stage"),
    [
        (LLAMA + "--num-query-groups 8 " + TP + "8", 8, 0),
        (LLAMA + "--num-query-groups 8 --micro-batch-size 2 " + TP + "8" + PP2, 16, 0),
        (LLAMA + "--num-query-groups 8 " + TP + "8" + PP2, 16, 1),
        (LLAMA + "--num-query-groups 16 " + TP + "4", 4, 0),
        (LLAMA + "--num-query-groups 16 " + TP + "4" + SELECTIVE, 4, 0),
        (LLAMA + "--num-query-groups 16 " + TP + "4" + UNIFORM, 4, 0),
        (LLAMA + "--num-query-groups 16 " + TP + "4" + BLOCK, 4, 0),
        (LLAMA + "--num-query-groups 64 --position-embedding-type none", 1, 0),
        (LLAMA + "--num-query-groups 16 --position-embedding-type none" + SELECTIVE, 1, 0),
        (LLAMA + "--num-query-groups 64 --rotary-percent 0.5 --tensor-model-parallel-size 2", 2, 0),
        (GPT, 1, 0),
        (GPT + "--micro-batch-size 2 " + TP + "2", 2, 0),
        (GPT + "--untie-embeddings-and-output-weights " + TP + "2" + SELECTIVE, 2, 0),
        (GPT + TP + "2" + UNIFORM, 2, 0),
        (GPT + TP + "2" + UNIFORM + PP2, 4, 1),
    ],
)
def test_the_count_is_what_autograd_keeps(words, world_size, stage):
    """Kept: to the byte, but for the seeds. The most at once: 5 % more at most, and less by tensors of ids alone."""
    run = settings(words, world_size)
    real = trace(run, stage, ROWS)
    kept, working = chunk(run, stage)
    if stage > 0:  # the input, which the schedule keeps and autograd need not
        hidden = run.model.seq_length * run.training.micro_batch_size * run.model.hidden_size * 2
        own = hidden // (run.parallel.tensor_model_parallel_size if run.parallel.sequence_parallel else 1)
        kept -= own if run.model.normalization == "RMSNorm" and run.model.recompute_granularity != "full" else 0
    assert 0 <= real.kept - kept <= SEED * run.layers_per_chunk
    assert -0.001 <= (kept + working) / real.peak - 1 <= 0.05


@pytest.mark.parametrize("recompute", ["", SELECTIVE, UNIFORM, BLOCK])
@pytest.mark.parametrize("words", [SMALL_LLAMA + "--num-query-groups 2", SMALL, SMALL + "--micro-batch-size 3"])
def test_the_count_is_what_real_tensors_hold(words, recompute):
    run = settings(words + recompute)
    real = trace(run, 0, ROWS, fake=False)
    assert 0 <= real.kept - chunk(run, 0)[0] <= SEED * run.layers_per_chunk


def test_dropout_keeps_a_byte_per_number():
    """As torch's operator does on a card. On a CPU torch keeps the noise itself, 2 bytes per number in bfloat16."""
    without, dropped = (settings(SMALL + f"--hidden-dropout {p}") for p in (0, 0.5))
    extra = trace(dropped, 0, ROWS, fake=False).kept - trace(without, 0, ROWS, fake=False).kept
    assert chunk(dropped, 0)[0] - chunk(without, 0)[0] == extra // 2 > 0


@pytest.mark.parametrize(("stages", "chunks"), [(1, 1), (2, 1), (4, 1), (2, 2), (4, 2), (4, 3)])
def test_as_many_passes_are_under_way_as_megatron_starts_before_its_first_backward_pass(stages, chunks):
    words = SMALL + f"--num-layers {stages * chunks} --pipeline-model-parallel-size {stages} "
    if chunks > 1:
        words += f"--num-virtual-stages-per-pipeline-rank {chunks} "
    for micro_batches in (stages, 4 * stages):
        run = settings(words + f"--global-batch-size {micro_batches}", stages)
        for stage in range(stages):
            group = SimpleNamespace(size=lambda: stages, rank=lambda stage=stage: stage)
            communicator = SimpleNamespace(
                pp_group=group, virtual_pipeline_model_parallel_size=chunks if chunks > 1 else None
            )
            _, _, warm_up, _ = get_pp_rank_microbatches(micro_batches, chunks, stages, p2p_communicator=communicator)
            assert in_flight(run, stage) == min(warm_up + 1, micro_batches * chunks)


def test_every_pass_under_way_keeps_its_layers():
    words = LLAMA + "--num-query-groups 8 --num-layers 8 --pipeline-model-parallel-size 4 " + TP + "8 "
    one, many = (settings(words + f"--global-batch-size {size}", 32) for size in (1, 64))
    for stage in range(4):
        single, several = (activations(run, stage, ROWS).kept for run in (one, many))
        head = single - activations(one, 2, ROWS).kept if stage == 3 else 0
        assert several - head == (4 - stage) * (single - head)


@pytest.mark.parametrize(
    ("more", "flag"), [("--qk-layernorm", "--qk-layernorm"), ("--attention-dropout 0.1", "--attention-dropout above 0")]
)
def test_what_is_not_counted_is_refused(more, flag):
    with pytest.raises(NotImplementedError, match=f"^{flag}: its activations are not counted"):
        activations(settings(SMALL + more), 0, ROWS)
