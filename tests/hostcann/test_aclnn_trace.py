"""ASCENDSPEED_HOSTCANN_TRACE: what a caller really passed, a line a call."""

import json
from typing import Any

import pytest
import torch

from ascendspeed.ops import compressed_atten_mask
from tests.hostcann.calls import RefusedError
from tests.hostcann.operator import unwritten

FORWARD = "flash_attention_score_v2"


def call(programs, folder, query, attributes, **variables):
    batch, heads, length, _ = query.shape
    stats = {name: unwritten((batch, heads, length, 8), torch.float32) for name in ("softmax_max", "softmax_sum")}
    outputs = {"attention_out": unwritten(query.shape, query.dtype), **stats}
    inputs = {"query": query, "key": query, "value": query}
    inputs |= {name: attributes.pop(name) for name in list(attributes) if isinstance(attributes[name], torch.Tensor)}
    attributes = {"head_num": heads, "input_layout": "BNSD", **attributes}
    return programs.call(FORWARD, folder, inputs, outputs, attributes, **variables)


@pytest.mark.parametrize(("mode", "prefix"), [(2, None), (6, [5, 9])])
def test_a_call_is_recorded_argument_by_argument(programs, tmp_path, mode, prefix):
    """One causal and one prefix call: the compressed mask is what is passed, and nothing of the size of the scores."""
    mask, trace = compressed_atten_mask(mode), tmp_path / "trace.jsonl"
    query = torch.randn(2, 16, 3, 8).to(torch.bfloat16).transpose(1, 2)[:, :, 4:]
    attributes: dict[str, Any] = {"atten_mask": mask, "sparse_mode": mode, "scale": 0.125}
    attributes |= {} if prefix is None else {"prefix": prefix}
    call(programs, tmp_path / "call", query, attributes, ASCENDSPEED_HOSTCANN_TRACE=str(trace))
    first, second = map(json.loads, trace.read_text().splitlines())
    assert first["function"] == "aclnnFlashAttentionScoreV2GetWorkspaceSize"
    assert second["function"] == "aclnnFlashAttentionScoreV2"
    assert [first["status"], second["status"]] == [0, 0]
    assert first["workspace_size"] == second["workspace_size"] > 0
    arguments = first["arguments"]
    assert arguments["query"] == {
        "shape": [2, 3, 12, 8],
        "strides": [384, 8, 24, 1],
        "offset": 96,
        "dtype": "ACL_BF16",
        "format": "ACL_FORMAT_ND",
        "storage_shape": [768],
    }
    assert arguments["atten_mask"]["shape"] == list(mask.shape)
    assert arguments["atten_mask"]["dtype"] == "ACL_BOOL"
    given = {"sparse_mode": mode, "prefix": prefix, "scale": 0.125, "keep_prob": 1.0, "head_num": 3, "pse_type": 1}
    given |= {"input_layout": "BNSD", "pre_tockens": 2147483647, "next_tockens": 2147483647, "inner_precise": 0}
    assert {name: arguments[name] for name in given} == given
    tensors = {name for name, value in arguments.items() if isinstance(value, dict)}
    assert tensors == {"query", "key", "value", "atten_mask", "softmax_max", "softmax_sum", "attention_out"}
    assert arguments["softmax_layout"] is None  # not of this version


def test_a_refused_call_is_recorded_with_its_message(programs, tmp_path):
    trace, query = tmp_path / "trace.jsonl", torch.randn(1, 1, 4, 8)
    bad = {"head_num": 2, "input_layout": 'BN"SD'}
    with pytest.raises(RefusedError) as refused:
        call(programs, tmp_path / "call", query, bad, ASCENDSPEED_HOSTCANN_TRACE=str(trace))
    (line,) = map(json.loads, trace.read_text().splitlines())
    assert line["status"] == refused.value.code == 161002
    assert line["message"] == refused.value.message
    assert line["arguments"]["input_layout"] == 'BN"SD'


def test_calls_of_several_processes_share_a_file(programs, tmp_path):
    trace, query = tmp_path / "trace.jsonl", torch.randn(1, 1, 4, 8)
    for index in range(3):
        call(programs, tmp_path / str(index), query, {}, ASCENDSPEED_HOSTCANN_TRACE=str(trace))
    assert len(list(map(json.loads, trace.read_text().splitlines()))) == 6


def test_a_trace_that_cannot_be_written_is_an_error(programs, tmp_path):
    query = torch.randn(1, 1, 4, 8)
    with pytest.raises(RefusedError, match=r"first phase: 561000 .*ASCENDSPEED_HOSTCANN_TRACE=.*No such file"):
        call(programs, tmp_path / "call", query, {}, ASCENDSPEED_HOSTCANN_TRACE=str(tmp_path / "no" / "trace"))
