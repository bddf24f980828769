"""Which version of the aclnn calls is taken: with this CANN, on another chip, and with older CANNs.

An older libopapi.so is this one, linked again with fewer names exported.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ROOT / "build" / "hostcann" / "lib"

# Runs each statement of its input and says how it ended.
PROGRAM = """
import json, os, sys
import torch
from ascendspeed.ops import compressed_atten_mask, flash_attention_score
def ones(*shape, dtype=torch.bfloat16):
    return torch.ones(shape, device="npu", dtype=dtype, requires_grad=True)
def dense(dtype=torch.bfloat16, **attributes):
    tensors = [ones(1, 2, 4, 8, dtype=dtype) for _ in range(3)]
    flash_attention_score(*tensors, 2, "BNSD", **attributes).attention_out.sum().backward()
def packed(rope=False, dtype=torch.bfloat16, **attributes):
    tensors = [ones(4, 2, 128, dtype=dtype) for _ in range(3)]
    attributes |= {"query_rope": ones(4, 2, 64), "key_rope": ones(4, 2, 64)} if rope else {}
    attributes |= {"atten_mask": compressed_atten_mask(3).npu(), "sparse_mode": 3}
    attributes |= {"actual_seq_qlen": [1, 4], "actual_seq_kvlen": [1, 4]}
    flash_attention_score(*tensors, 2, "TND", **attributes).attention_out.sum().backward()
SINK = {"sink": torch.zeros(2, device="npu")}
SLOPES = {"pse": torch.ones(2, device="npu"), "pse_type": 2}
for index, statement in enumerate(json.loads(sys.argv[1])):
    os.environ["ASCENDSPEED_HOSTCANN_TRACE"] = f"{sys.argv[2]}/{index}"
    try:
        eval(statement)
        outcome = "done"
    except Exception as error:
        outcome = f"{type(error).__name__} {error}"
    torch.npu.synchronize()
    print("outcome", outcome)
"""

Outcome = tuple[str, list[str]]


LAST = ["VarLenScoreV5", "UnpaddingScoreGradV5"]
ABOVE_V2 = [*LAST, "ScoreV3", "ScoreGradV3", "VarLenScoreV4", "UnpaddingScoreGradV4"]
ABOVE_V1 = [*ABOVE_V2, "ScoreV2", "ScoreGradV2", "VarLenScoreV3", "UnpaddingScoreGradV3"]
ABOVE_V1 += ["VarLenScoreV2", "UnpaddingScoreGradV2"]


@pytest.fixture
def outcomes(run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Outcome]]:
    """outcomes(statements): how each ended, and the calls of the operator that it made."""

    def calls_of(trace: Path) -> list[str]:
        lines = trace.read_text().splitlines() if trace.exists() else []
        names = [json.loads(line)["function"] for line in lines]
        prefix, suffix = "aclnnFlashAttention", "GetWorkspaceSize"
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix) and not name.endswith(suffix)]

    def make(*statements: str, **variables: str) -> list[Outcome]:
        folder = tmp_path_factory.mktemp("traces")
        result = run(PROGRAM, json.dumps(statements), str(folder), **variables)
        assert result.returncode == 0, result.stderr
        ends = [line.partition(" ")[2] for line in result.stdout.splitlines() if line.startswith("outcome ")]
        return [(end, calls_of(folder / str(index))) for index, end in enumerate(ends)]

    return make


@pytest.fixture
def older(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """older("ScoreV3", ...): the variable that puts a CANN without these calls first on the loader's path."""

    def make(*absent: str) -> dict[str, str]:
        exports = (ROOT / "csrc" / "hostcann" / "aclnn" / "exports.map").read_text()
        hidden = "".join(f"aclnnFlashAttention{name}{phase}; " for name in absent for phase in ("", "GetWorkspaceSize"))
        (tmp_path / "exports.map").write_text(exports.replace("local:", f"local: {hidden}"))
        objects = sorted((LIBRARIES.parent / "CMakeFiles" / "opapi.dir").rglob("*.o"))
        assert objects
        command = [os.environ.get("CXX", "g++"), "-shared", "-fopenmp", *objects, "-Wl,-soname,libopapi.so"]
        command += [f"-L{LIBRARIES}", "-lascendcl", f"-Wl,--version-script={tmp_path / 'exports.map'}"]
        result = subprocess.run([*command, "-o", tmp_path / "libopapi.so"], capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return {"LD_LIBRARY_PATH": os.pathsep.join([str(tmp_path), os.environ["LD_LIBRARY_PATH"]])}

    return make


def test_the_newest_version_is_taken(outcomes):
    assert outcomes("dense()", "dense(**SINK)", "packed()", "packed(rope=True)") == [
        ("done", ["ScoreV3", "ScoreGradV3"]),
        ("done", ["ScoreV3", "ScoreGradV3"]),
        ("done", ["VarLenScoreV5", "UnpaddingScoreGradV5"]),
        ("done", ["VarLenScoreV5", "UnpaddingScoreGradV5"]),
    ]


def test_a_version_whose_page_does_not_admit_the_call_is_passed_over(outcomes, older):
    """float32 is on no page of a version with sinks; VarLenScoreV3's is for rope inputs alone."""
    float32 = "dtype=torch.float32"
    assert outcomes(f"dense({float32})", f"packed({float32})") == [
        ("done", ["ScoreV2", "ScoreGradV2"]),
        ("done", ["VarLenScoreV4", "UnpaddingScoreGradV4"]),
    ]
    slopes = "packed(pse=torch.ones(2, device='npu'), pse_type=2)"
    assert outcomes(slopes, **older(*LAST)) == [("done", ["VarLenScoreV2", "UnpaddingScoreGradV2"])]


def test_where_no_page_admits_the_call_cann_is_asked(outcomes):
    call = "packed(dtype=torch.float32, pse=torch.ones(2, device='npu'), pse_type=2, softmax_layout='TND')"
    assert outcomes(call) == [("done", ["VarLenScoreV5", "UnpaddingScoreGradV5"])]


def test_ascend950_has_one_version_for_both(outcomes):
    """And the others lack it, whatever is exported."""
    made = outcomes("dense()", "packed()", ASCENDSPEED_HOSTCANN_SOC="Ascend950PR_9589")
    assert made == [("done", ["ScoreV4", "ScoreGradV4"])] * 2


def test_the_newest_of_an_older_cann_is_taken(outcomes, older):
    assert outcomes("dense()", "dense(**SLOPES)", **older(*ABOVE_V2)) == [("done", ["ScoreV2", "ScoreGradV2"])] * 2


def test_a_newer_version_is_passed_over_for_what_only_an_older_one_has(outcomes, older):
    """V3 has rope inputs and no softmax_layout, V4 the reverse."""
    assert outcomes("packed(rope=True)", "packed(softmax_layout='TND')", **older(*LAST)) == [
        ("done", ["VarLenScoreV3", "UnpaddingScoreGradV3"]),
        ("done", ["VarLenScoreV4", "UnpaddingScoreGradV4"]),
    ]


def test_what_the_oldest_cann_cannot_express_is_refused_by_name(outcomes, older):
    refused = {
        "dense(**SINK)": ("sink", "Score", "ScoreV3"),
        "dense(**SLOPES)": ("pse_type", "Score", "ScoreV2"),
        "dense(q_start_idx=[3], kv_start_idx=[0])": ("q_start_idx", "Score", "ScoreV2"),
        "packed(rope=True)": ("query_rope", "VarLenScore", "VarLenScoreV3"),
        "packed(softmax_layout='TND')": ("softmax_layout", "VarLenScore", "VarLenScoreV4"),
    }
    text = (
        "NotImplementedError {}: aclnnFlashAttention{}, the newest that the installed libopapi.so has, cannot express "
        "it; it takes a CANN with aclnnFlashAttention{}"
    )
    assert outcomes("dense()", "packed()", *refused, **older(*ABOVE_V1)) == [
        ("done", ["Score", "ScoreGrad"]),
        ("done", ["VarLenScore", "UnpaddingScoreGrad"]),
        *((text.format(*names), []) for names in refused.values()),
    ]


def test_an_empty_list_is_no_argument(outcomes, older):
    assert outcomes("dense(q_start_idx=[], kv_start_idx=[])", **older(*ABOVE_V1)) == [("done", ["Score", "ScoreGrad"])]


def test_a_cann_without_the_operator_is_refused_by_name(outcomes, older):
    ((end, _),) = outcomes("dense()", **older("ScoreV4", "Score", *ABOVE_V1))
    none = "NotImplementedError the installed libopapi.so has none of aclnnFlashAttentionScore's versions"
    assert end.startswith(f"{none} that run on Ascend910B")
