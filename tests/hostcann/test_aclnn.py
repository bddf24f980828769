"""The operator through CANN's C interface, each version from a program of its own, against the float64 reference."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings

from tests.hostcann.operator import unwritten
from tests.ops.test_flash_attention_score import check
from tests.support.cases import LAYOUTS, MEMORY, Case, cases
from tests.support.packed import PackedCase
from tests.support.packed_cases import MODES, four_elements, packed_cases
from tests.support.packed_check import check_packed

DENSE = ("score", "score_v2", "score_v3", "score_v4")
PACKED = ("var_len_score", "var_len_score_v2", "var_len_score_v3", "var_len_score_v4", "var_len_score_v5", "score_v4")
# What the versions of each family have beyond the first.
PSE_TYPES = {"score_v2", "score_v3", "score_v4", "var_len_score_v2", "var_len_score_v3", "var_len_score_v5"}
SINK = {"score_v3", "score_v4", "var_len_score_v5"}
ROPE = {"var_len_score_v3", "var_len_score_v5", "score_v4"}
STATS_LAYOUT = {"var_len_score_v4", "var_len_score_v5", "score_v4"}
HALF = torch.bfloat16


def dense(**changes) -> Case:
    """Unequal lengths on both sides of a block edge, grouped heads, two head sizes."""
    return dataclasses.replace(Case(2, 4, 2, 75, 99, 16, 8, dtype=HALF, seed=3), **changes)


@pytest.mark.parametrize("version", DENSE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_dense_version_in_every_layout(operator_of, version, layout):
    check(dense(layout=layout, masked=True, sparse_mode=3, sink=version in SINK), operator_of(version).dense)


@pytest.mark.parametrize("version", DENSE)
@pytest.mark.parametrize("mode", range(7))
def test_every_dense_version_in_every_sparse_mode(operator_of, version, mode):
    prefix = (30, 60) if mode in (5, 6) else None
    band = {"pre_tockens": 20, "next_tockens": 9} if mode in (0, 4) else {}
    case = dense(masked=True, sparse_mode=mode, mask_shape="B1SS", prefix=prefix, **band)
    check(case, operator_of(version).dense)


@pytest.mark.parametrize("version", sorted(PSE_TYPES & set(DENSE)))
@pytest.mark.parametrize(("pse", "pse_type"), [("BNSS", 0), ("1NSS", 1), ("BN1S", 1), ("N", 2), ("BN", 3)])
def test_every_pse_type(operator_of, version, pse, pse_type):
    starts = (4, 9) if pse_type > 1 else None
    case = dense(kv_len=75, pse=pse, pse_type=pse_type, starts=starts, dtype=torch.float32)
    check(case, operator_of(version).dense)


@pytest.mark.parametrize("memory", MEMORY)
def test_tensors_of_any_strides(operator_of, memory):
    case = dense(memory=memory, layout="BSND", masked=True, sparse_mode=1, pse="BNSS", sink=True)
    check(case, operator_of("score_v3").dense)


def test_tensors_that_begin_inside_their_storage(programs, tmp_path):
    """Bitwise what the same values give from storages of their own; around outputs nothing is written."""
    attributes = {"head_num": 3, "input_layout": "BNSD", "scale": 0.25}
    wide = torch.randn(2, 3, 20, 8)
    results = []
    for name, query in (("inside", wide[1:, :, 7:15]), ("own", wide[1:, :, 7:15].clone())):
        memory = torch.full((2, 3, 10, 8), torch.nan)
        like = {"attention_out": memory[1:, :, 1:9] if name == "inside" else unwritten(query.shape, query.dtype)}
        like |= {stats: unwritten((1, 3, 8, 8), torch.float32) for stats in ("softmax_max", "softmax_sum")}
        inputs = {"query": query, "key": query, "value": query}
        results.append(programs.call("flash_attention_score", tmp_path / name, inputs, like, attributes))
    inside, own = results
    assert all(torch.equal(inside[name], own[name]) for name in own)
    around = inside["attention_out"].as_strided((2, 3, 10, 8), memory.stride(), 0)
    assert around.isnan().sum() == 2 * 3 * 10 * 8 - own["attention_out"].numel()


@pytest.mark.parametrize("version", DENSE)
def test_dropout_by_a_mask(operator_of, version):
    check(dense(dropout="mask", keep_prob=0.7), operator_of(version).dense)


@pytest.mark.parametrize("version", DENSE[:3])
def test_without_a_mask_the_others_drop_nothing(operator_of, version):
    check(dense(keep_prob=0.7), operator_of(version).dense)


def test_the_newest_version_generates_a_dropout_mask(operator_of):
    check(dense(dropout="seed", keep_prob=0.7), operator_of("score_v4").dense)


@pytest.mark.parametrize("version", PACKED)
@pytest.mark.parametrize("mode", [None, *MODES])
def test_every_packed_version_in_every_sparse_mode(operator_of, version, mode):
    rope = mode not in (None, 6) and version in ROPE
    case = four_elements(
        mode,
        dtype=HALF,
        rope_dim=4 if rope else 0,
        sink=version in SINK,
        softmax_layout="TND" if version in STATS_LAYOUT else "",
    )
    check_packed(case, operator_of(version).packed)


@pytest.mark.parametrize("version", sorted(PSE_TYPES & set(PACKED)))
@pytest.mark.parametrize(("pse", "pse_type"), [("full", 0), ("row", 1), ("N", 2), ("BN", 3)])
def test_every_packed_pse_type(operator_of, version, pse, pse_type):
    lengths = (75, 3, 100)
    case = PackedCase(lengths, lengths, heads=4, kv_heads=2, qk_dim=16, v_dim=8, pse=pse, pse_type=pse_type, seed=5)
    check_packed(dataclasses.replace(case, starts=(4, 9) if pse_type > 1 else None), operator_of(version).packed)


@pytest.mark.parametrize("version", ["var_len_score_v5", "score_v4"])
def test_packed_dropout_by_a_mask(operator_of, version):
    check_packed(four_elements(None, dropout="mask", keep_prob=0.7), operator_of(version).packed)


@pytest.mark.parametrize(("q_len", "kv_len"), [(4, 0), (0, 4), (0, 0)])
def test_without_rows_or_keys_everything_is_zero(programs, tmp_path, q_len, kv_len):
    """Nothing to attend to: outputs and gradients are 0, and no workspace is asked for."""
    query, key = torch.randn(2, 3, q_len, 8), torch.randn(2, 3, kv_len, 8)
    inputs = {"query": query, "key": key, "value": key}
    stats = {name: unwritten((2, 3, q_len, 8), torch.float32) for name in ("softmax_max", "softmax_sum")}
    attributes = {"head_num": 3, "input_layout": "BNSD"}
    trace = {"ASCENDSPEED_HOSTCANN_TRACE": str(tmp_path / "trace")}
    like = {"attention_out": unwritten(query.shape, query.dtype), **stats}
    outputs = programs.call("flash_attention_score", tmp_path / "forward", inputs, like, attributes, **trace)
    inputs |= {"dy": query, "attention_in": outputs["attention_out"], **outputs}
    del inputs["attention_out"]
    like = {name: unwritten(t.shape, t.dtype) for name, t in (("dq", query), ("dk", key), ("dv", key))}
    outputs |= programs.call("flash_attention_score_grad", tmp_path / "backward", inputs, like, attributes, **trace)
    assert len(outputs) == 6
    assert all((output == 0).all() for output in outputs.values())
    lines = list(map(json.loads, (tmp_path / "trace").read_text().splitlines()))
    assert [line["workspace_size"] for line in lines] == [0, 0, 0, 0]


@given(case=cases())
@settings(max_examples=25)
def test_any_dense_problem(operator_of, case):
    check(case, operator_of("score_v4" if case.dropout == "seed" else "score_v3").dense)


@given(case=packed_cases())
@settings(max_examples=25)
def test_any_packed_problem(operator_of, case):
    check_packed(case, operator_of("score_v4" if case.dropout == "seed" else "var_len_score_v5").packed)
