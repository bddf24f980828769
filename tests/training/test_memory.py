"""python -m ascendspeed.training.memory: what it prints, what it refuses, and when it says that a run does not fit."""

import pytest

from ascendspeed.training import flags, memory
from ascendspeed.training.memory import GIB

pytestmark = pytest.mark.usefixtures("no_process_group")

LLAMA_70B = """
    --num-layers 80 --hidden-size 8192 --num-attention-heads 64 --ffn-hidden-size 28672 --group-query-attention
    --num-query-groups 8 --seq-length 4096 --max-position-embeddings 4096 --position-embedding-type rope --swiglu
    --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights --bf16 --attention-dropout 0
    --hidden-dropout 0 --micro-batch-size 1 --train-iters 1 --lr 1e-4 --tensor-model-parallel-size 8
    --sequence-parallel --pipeline-model-parallel-size 4 --padded-vocab-size 32000 --global-batch-size 64
"""


def run(capsys, monkeypatch, words: str, world_size: int = 32) -> tuple[int, str, str]:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    status = memory.main(words.split())
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_report_has_a_line_per_stage_and_a_verdict(capsys, monkeypatch):
    status, out, err = run(capsys, monkeypatch, LLAMA_70B)
    first, _, *stages, verdict = out.splitlines()
    assert (status, err) == (0, "")
    assert first.startswith("68,976,648,192 parameters; 32 ranks: tensor 8 x pipeline 4 x data 1 parallel")
    assert [line.split()[:2] for line in stages] == [["ranks", f"{8 * i}-{8 * i + 7}"] for i in range(4)]
    assert verdict.endswith("GiB fits into the 60.96 GiB of a card of 64 GB")
    for line in stages:
        *parts, total = map(float, line.split()[2:])
        assert sum(parts) == pytest.approx(total, abs=0.04)  # each of 6 parts is rounded to 0.01


def test_a_run_that_does_not_fit_is_a_failure(capsys, monkeypatch):
    status, out, _ = run(capsys, monkeypatch, LLAMA_70B + "--pipeline-model-parallel-size 2", 16)
    assert status == 1
    assert "does NOT fit into" in out.splitlines()[-1]


def test_a_mistake_is_one_line(capsys, monkeypatch):
    for more, message in (
        ("--tensor-model-parallel-size 3", "error: --tensor-model-parallel-size=3"),
        ("--qk-layernorm", "error: --qk-layernorm: its activations are not counted"),
        ("--position-embedding-type alibi", "error: --position-embedding-type alibi: its activations are not counted"),
        ("--reset-attention-mask", "error: --reset-attention-mask: its activations are not counted"),
        ("--prefix-lm --prefix-end-token 7", "error: --prefix-lm: its activations are not counted"),
    ):
        status, out, err = run(capsys, monkeypatch, LLAMA_70B + more)
        assert (status, out) == (2, "")
        assert err.startswith(message)
        assert err.count("\n") == 1
    status, _, err = run(capsys, monkeypatch, LLAMA_70B.replace("--padded-vocab-size 32000", ""))
    assert status == 2
    assert err.startswith("error: --padded-vocab-size is missing")


def test_the_buffers_of_communicators_follow_the_environment(monkeypatch):
    settings = flags.parse(LLAMA_70B.split(), world_size=32)

    def communication(**environment: str) -> list[float]:
        for name in ("HCCL_BUFFSIZE", "P2P_HCCL_BUFFSIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return [stage.communication * 1024 / GIB for stage in memory.estimate(settings).stages]

    # Of 32 ranks: the world, tensor parallel, pipeline and model groups; there is no data parallelism.
    assert communication() == [4 * 400 + 40, 4 * 400 + 80, 4 * 400 + 80, 4 * 400 + 40]
    assert communication(HCCL_BUFFSIZE="100", P2P_HCCL_BUFFSIZE="0") == [800] * 4
    with pytest.raises(memory.Mistake, match="HCCL_BUFFSIZE=many is not a whole number of megabytes"):
        communication(HCCL_BUFFSIZE="many")


def test_the_norm_of_the_distributed_optimizer_is_reduced_over_all_ranks():
    words = LLAMA_70B + "--tensor-model-parallel-size 1 --pipeline-model-parallel-size 1 --num-layers 1 "
    words = words.replace("--sequence-parallel", "")
    buffers = [
        memory.estimate(flags.parse((words + more).split(), world_size=2)).stages[0].communication / GIB * 1024
        for more in ("", "--use-distributed-optimizer")
    ]
    assert buffers == [3 * 400, 4 * 400]  # the world, gradients, reports; and the norm, which a rank alone has whole


def test_copies_of_gradients_count_where_they_need_more_than_the_activations():
    words = LLAMA_70B + "--global-batch-size 1 --recompute-granularity full --recompute-method uniform "
    words += "--recompute-num-layers 1 "
    plain, copied = (
        memory.estimate(flags.parse((words + more).split(), world_size=32)) for more in ("", "--grad-reduce-in-bf16")
    )
    for before, stage in zip(plain.stages, copied.stages, strict=True):
        copies = stage.optimizer // 3  # as many bytes as one of the moments
        assert before.activations + before.working < copies
        assert stage.activations + stage.working == pytest.approx(copies)
