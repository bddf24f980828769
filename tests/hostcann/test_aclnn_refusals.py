"""What the C interface refuses on its own: pointers, formats, storage, outputs, products. The rules it shares with
ascendspeed.ops are tested there; one of each code stands for them here."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hostcann.calls import Described, Programs, RefusedError
from tests.hostcann.operator import SOC_950, unwritten

FRACTAL_NZ, INT64, INT4 = 29, 9, 29
SHAPE, STATS = (1, 2, 4, 8), (1, 2, 4, 8)
FORWARD, BACKWARD = "flash_attention_score", "flash_attention_score_grad"
NEWEST, PACKED = "flash_attention_score_v4", "flash_attention_var_len_score"


def half(*sizes: int) -> torch.Tensor:
    return torch.ones(sizes, dtype=torch.float16)


def legal(backward: bool) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Inputs, outputs and attributes of a small call that every dense version accepts."""
    inputs: dict[str, Any] = {name: half(*SHAPE) for name in ("query", "key", "value")}
    attributes = {"head_num": 2, "input_layout": "BNSD"}
    stats = {name: torch.ones(STATS) for name in ("softmax_max", "softmax_sum")}
    if backward:
        inputs |= {"dy": half(*SHAPE), "attention_in": half(*SHAPE), **stats}
        return inputs, {name: unwritten(SHAPE, torch.float16) for name in ("dq", "dk", "dv")}, attributes
    stats = {name: unwritten(STATS, torch.float32) for name in stats}
    return inputs, {"attention_out": unwritten(SHAPE, torch.float16), **stats}, attributes


def refusal(programs: Programs, folder: Path, program: str, changes: dict[str, Any], **variables: str) -> RefusedError:
    """What a legal call with `changes` is refused with; a change to None leaves the argument out."""
    inputs, outputs, attributes = legal("grad" in program)
    for name, value in changes.items():
        for part in (inputs, outputs, attributes):
            if name in part:
                part[name] = value
                break
        else:
            (inputs if isinstance(value, torch.Tensor | Described) else attributes)[name] = value
    with pytest.raises(RefusedError) as refused:
        programs.call(program, folder, inputs, outputs, attributes, **variables)
    return refused.value


@pytest.mark.parametrize("program", [FORWARD, BACKWARD])
def test_the_call_that_the_others_differ_from_is_accepted(programs, tmp_path, program):
    inputs, outputs, attributes = legal("grad" in program)
    results = programs.call(program, tmp_path, inputs, outputs, attributes)
    assert all(result.isfinite().all() for result in results.values())


FORWARD_POINTERS = ("query", "key", "value", "input_layout", "softmax_max", "softmax_sum", "attention_out")
BACKWARD_POINTERS = (
    *("query", "key", "value", "dy", "input_layout", "softmax_max", "softmax_sum", "attention_in"),
    *("dq", "dk", "dv"),
)


@pytest.mark.parametrize(
    ("program", "name"),
    [(FORWARD, name) for name in FORWARD_POINTERS] + [(BACKWARD, name) for name in BACKWARD_POINTERS],
)
def test_a_required_pointer_that_is_null(programs, tmp_path, program, name):
    refused = refusal(programs, tmp_path, program, {name: None})
    assert (refused.phase, refused.code) == ("first", 161001)
    call = {FORWARD: "aclnnFlashAttentionScore", BACKWARD: "aclnnFlashAttentionScoreGrad"}[program]
    assert refused.message == f"{call}GetWorkspaceSize: {name} is null [161001]"


REFUSED = {
    "a private format": (FORWARD, {"key": Described(half(*SHAPE), format=FRACTAL_NZ)}, 161002, r"key .*FRACTAL_NZ"),
    "a dtype without whole bytes": (FORWARD, {"value": Described(half(*SHAPE), dtype=INT4)}, 161002, r"value .*dtype"),
    "an unsupported dtype": (FORWARD, {"query": Described(half(*SHAPE), dtype=INT64)}, 161002, "query: dtype ACL_INT64"),
    "unequal dtypes": (FORWARD, {"key": torch.ones(SHAPE)}, 161002, "key: dtype ACL_FLOAT differs from ACL_FLOAT16"),
    "an offset beyond the storage": (FORWARD, {"query": Described(half(*SHAPE), offset=1)}, 161002, "out of the storage"),
    "a negative offset": (FORWARD, {"query": Described(half(*SHAPE), offset=-1)}, 161002, "out of the storage"),
    "strides beyond the storage": (FORWARD, {"query": Described(half(*SHAPE), strides=[64, 33, 8, 1])}, 161002, r"query .*strides \[64, 33, 8, 1\] .*out of the storage \[64\]"),
    "negative strides": (FORWARD, {"query": Described(half(*SHAPE), offset=56, strides=[0, 0, -8, 1])}, 161002, "out of the storage"),
    "a storage that is too small": (FORWARD, {"key": Described(half(*SHAPE), storage=[63])}, 161002, "storage"),
    "an output of another shape": (FORWARD, {"attention_out": half(1, 2, 4, 7)}, 161002, r"attention_out .*expected"),
    "statistics of another dtype": (FORWARD, {"softmax_sum": half(*STATS)}, 161002, "softmax_sum .*expected ACL_FLOAT"),
    "an output whose elements share memory": (FORWARD, {"attention_out": half(1, 1, 1, 8).expand(SHAPE)}, 161002, "the same memory"),
    "a gradient of another shape": (BACKWARD, {"dk": half(1, 2, 5, 8)}, 161002, r"dk .*expected \[1, 2, 4, 8\]"),
    "a gradient of another dtype": (BACKWARD, {"dq": torch.ones(SHAPE)}, 161002, "dq .*ACL_FLOAT, expected ACL_FLOAT16"),
    "a gradient of nothing": (BACKWARD, {"dpse": half(1)}, 161002, r"dpse \[1\]: there is no input"),
    "a reserved output": (FORWARD, {"softmax_out": half(1)}, 161002, "softmax_out .*reserved"),
    "a rule of the operator": (FORWARD, {"head_num": 3}, 161002, "head_num=3 is not the head count 2"),
    "a keep probability": (FORWARD, {"keep_prob": 0.0}, 161002, "keep_prob=0 is"),
    "a packed batch in a dense call": (FORWARD, {"input_layout": "TND"}, 161002, "packed batches have a call of their own"),
    "a dense batch in a packed call": (PACKED, {}, 161002, "input_layout='BNSD': this call takes 'TND' only"),
    "a packed layout in small letters": (PACKED, {"input_layout": "tnd"}, 161002, "takes 'TND' only"),
    "the newest version": (NEWEST, {}, 161002, "not supported on Ascend910B2, only on Ascend950"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_by_name(programs, tmp_path, name):
    program, changes, code, message = REFUSED[name]
    refused = refusal(programs, tmp_path, program, changes)
    assert (refused.phase, refused.code) == ("first", code)
    assert re.search(message, refused.message), refused.message
    assert refused.message.endswith(f"[{code}]")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_scale_q": torch.ones(1)}, r"d_scale_q .*quantised inputs are not implemented"),
        ({"out_dtype": 1}, "out_dtype=1: quantised inputs are not implemented"),
    ],
)
def test_quantised_inputs_are_not_implemented(programs, tmp_path, changes, message):
    refused = refusal(programs, tmp_path, NEWEST, changes, **SOC_950)
    assert refused.code == 161002
    assert re.search(message, refused.message), refused.message


def test_missing_sequence_lengths(programs, tmp_path):
    packed = {name: half(4, 2, 8) for name in ("query", "key", "value")}
    refused = refusal(programs, tmp_path, PACKED, {**packed, "input_layout": "TND"})
    assert refused.code == 161001
    assert "actual_seq_qlen is None" in refused.message
    lengths = {"actual_seq_qlen": [], "actual_seq_kvlen": []}
    assert refusal(programs, tmp_path, PACKED, {**packed, **lengths, "input_layout": "TND"}).code == 161002


def test_an_instruction_set_that_is_not_there(programs, tmp_path):
    refused = refusal(programs, tmp_path, FORWARD, {}, ASCENDSPEED_CPU_ISA="sse9")
    assert refused.code == 561003
    assert "ASCENDSPEED_CPU_ISA=sse9 is not one of" in refused.message
