"""Each refusal names the argument, its value, the rule and the CANN code; kernel and fake kernel refuse alike."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ascendspeed.ops import compressed_atten_mask
from tests.support.device import DEVICE
from tests.support.operator import flash_attention_score, flash_attention_score_grad, rng_state

B, N, NKV, SQ, SKV, D = 2, 4, 2, 6, 8, 16


def arguments(layout="BNSD", **changes):
    """A legal call, changed by name; tensors are made on the current default device."""
    shapes = {
        "BNSD": ((B, N, SQ, D), (B, NKV, SKV, D)),
        "BSND": ((B, SQ, N, D), (B, SKV, NKV, D)),
        "BSH": ((B, SQ, N * D), (B, SKV, NKV * D)),
        "SBH": ((SQ, B, N * D), (SKV, B, NKV * D)),
    }[layout]
    call = {
        "query": torch.zeros(shapes[0]),
        "key": torch.zeros(shapes[1]),
        "value": torch.zeros(shapes[1]),
        "head_num": N,
        "input_layout": layout,
    }
    return call | {name: make() if callable(make) else make for name, make in changes.items()}


def zeros(*shape, dtype=torch.float32):
    return lambda: torch.zeros(shape, dtype=dtype)


def mask(*shape):
    return zeros(*shape, dtype=torch.bool)


def compressed_pse(q_len, kv_len):
    """1024 rows of pse under a causal mask, all as CANN wants it but for the lengths."""
    key = zeros(1, 1, kv_len, 1)
    return {
        "query": zeros(1, 1, q_len, 1), "key": key, "value": key, "head_num": 1, "pse": zeros(1, 1, 1024, kv_len),
        "atten_mask": mask(2048, 2048), "sparse_mode": 2,
    }  # fmt: skip


# (changes to a legal call, what the message says)
INVALID = [
    ({"input_layout": "BHS"}, "input_layout='BHS' is not one of BSH, SBH, BSND, BNSD, TND"),
    ({"query": zeros(B, N, SQ, D, dtype=torch.float64)}, "query: dtype float64 is not one of float16, bfloat16, float32"),
    ({"key": zeros(B, NKV, SKV, D, dtype=torch.float16)}, "key: dtype float16 differs from float32 of query"),
    ({"value": zeros(B, NKV, SKV, D, dtype=torch.bfloat16)}, "value: dtype bfloat16 differs from float32 of query"),
    ({"head_num": 0}, "head_num=0 must be positive"),
    ({"head_num": -4}, "head_num=-4 must be positive"),
    ({"head_num": 8}, "head_num=8 is not the head count 4 of query [2, 4, 6, 16] (layout BNSD)"),
    ({"layout": "BSH", "head_num": 3}, "head_num=3 does not divide H=64 of query [2, 6, 64] (layout BSH)"),
    ({"query": zeros(B, N, SQ)}, "query [2, 4, 6] (layout BNSD) has rank 3, the layout has rank 4"),
    ({"key": zeros(B, NKV, SKV)}, "key [2, 2, 8] (layout BNSD) has rank 3"),
    ({"value": zeros(B, NKV, SKV, D, 1)}, "value [2, 2, 8, 16, 1] (layout BNSD) has rank 5"),
    ({"key": zeros(3, NKV, SKV, D)}, "key: batch 3 of key [3, 2, 8, 16] (layout BNSD) differs from 2 of query"),
    ({"value": zeros(3, NKV, SKV, D)}, "value: batch 3 of value [3, 2, 8, 16] (layout BNSD) differs from 2 of query"),
    ({"value": zeros(B, NKV, SKV + 1, D)}, "value: length 9 of value [2, 2, 9, 16] (layout BNSD) differs from 8 of key"),
    ({"value": zeros(B, 4, SKV, D)}, "value: head count 4 of value [2, 4, 8, 16] (layout BNSD) differs from 2 of key"),
    ({"key": zeros(B, NKV, SKV, 8)}, "key: head size 8 of key [2, 2, 8, 8] (layout BNSD) differs from 16 of query"),
    ({"layout": "SBH", "key": zeros(SKV, B, 24)}, "key: H=24 of key [8, 2, 24] (layout SBH) is not a multiple of the head size 16"),
    ({"layout": "SBH", "value": zeros(SKV, B, 33)}, "value: H=33 of value [8, 2, 33] (layout SBH) is not a multiple of the 2 heads"),
    ({"layout": "BSH", "query": zeros(B, SQ, 0)}, "key: H=32 of key [2, 8, 32] (layout BSH) while query has heads of size 0"),
    ({"key": zeros(B, 3, SKV, D), "value": zeros(B, 3, SKV, D)}, "head_num=4 is not a multiple of the 3 heads of key"),
    ({"value": zeros(B, NKV, SKV, 17)}, "value: head size 17 is above the head size 16 of query and key"),
    ({"layout": "BSH", "value": zeros(B, SKV, NKV * 17)}, "value: head size 17 is above the head size 16 of query and key"),
    ({"layout": "SBH", "value": zeros(SKV, B, NKV * 17)}, "value: head size 17 is above the head size 16 of query and key"),
    ({"scale": float("inf")}, "scale=inf is not finite in float32"),
    ({"scale": float("nan")}, "scale=nan is not finite in float32"),
    ({"keep_prob": 0.0}, "keep_prob=0 is outside (0, 1]"),
    ({"keep_prob": -0.5}, "keep_prob=-0.5 is outside (0, 1]"),
    ({"keep_prob": 1.5}, "keep_prob=1.5 is outside (0, 1]"),
    ({"scale": -1e39}, "scale=-1e+39 is not finite in float32"),
    ({"keep_prob": 1e-39, "seed": 1}, "keep_prob=1e-39 is too small: its inverse is not finite in float32"),
    ({"keep_prob": float("nan")}, "keep_prob=nan is outside (0, 1]"),
    ({"inner_precise": 3}, "inner_precise=3 is outside 0..2"),
    ({"inner_precise": -1}, "inner_precise=-1 is outside 0..2"),
    ({"sparse_mode": -1}, "sparse_mode=-1 is outside 0..6"),
    ({"sparse_mode": 7}, "sparse_mode=7 is outside 0..6"),
    ({"pse_type": 4}, "pse_type=4 is outside 0..3"),
    ({"pse_type": -1}, "pse_type=-1 is outside 0..3"),
    ({"pse_type": 0}, "pse is None, pse_type=0 needs it"),
    ({"pse_type": 2}, "pse is None, pse_type=2 needs it"),
    ({"pse_type": 3}, "pse is None, pse_type=3 needs it"),
    ({"pse": zeros(B, N, SQ, SKV, dtype=torch.float16)}, "pse [2, 4, 6, 8] float16: dtype differs from float32 of query"),
    ({"pse": zeros(N, SQ, SKV)}, "pse [4, 6, 8] float32: expected [1 or 2, 4, 1 or 1024 or 6, 8]"),
    ({"pse": zeros(3, N, SQ, SKV)}, "pse [3, 4, 6, 8] float32: expected [1 or 2, 4, 1 or 1024 or 6, 8]"),
    ({"pse": zeros(B, 1, SQ, SKV)}, "pse [2, 1, 6, 8] float32: expected"),
    ({"pse": zeros(B, N, 5, SKV)}, "pse [2, 4, 5, 8] float32: expected"),
    ({"pse": zeros(B, N, SQ, 1)}, "pse [2, 4, 6, 1] float32: expected"),
    ({"pse": zeros(B, N, 1024, SKV)}, "pse [2, 4, 1024, 8] float32: 1024 rows stand for at least 1024 query rows and as many keys, here Sq=6, Skv=8"),
    (compressed_pse(1025, 1030), "pse [1, 1, 1024, 1030] float32: 1024 rows stand for at least 1024 query rows and as many keys, here Sq=1025, Skv=1030"),
    (compressed_pse(1023, 1023), "pse [1, 1, 1024, 1023] float32: 1024 rows stand for at least 1024 query rows and as many keys, here Sq=1023, Skv=1023"),
    ({"pse": zeros(N), "pse_type": 2}, "pse: pse_type 2 needs as many query rows as keys, here Sq=6, Skv=8"),
    ({"pse": zeros(N + 1), "pse_type": 2}, "pse [5] float32: pse_type 2 takes slopes [4] or [2, 4]"),
    ({"pse": zeros(1, N), "pse_type": 3}, "pse [1, 4] float32: pse_type 3 takes slopes [4] or [2, 4]"),
    ({"pse": zeros(N, dtype=torch.float16), "pse_type": 3}, "pse [4] float16: pse_type 3 takes float32 slopes"),
    ({"sink": zeros(N)}, "sink: query is float32, sinks need float16 or bfloat16"),
    ({"sink": zeros(N, dtype=torch.float16)}, "sink [4] float16: expected float32"),
    ({"sink": zeros(N + 1)}, "sink [5] float32: expected one logit per query head, [4]"),
    ({"sink": zeros(1, N)}, "sink [1, 4] float32: expected one logit per query head, [4]"),
    ({"padding_mask": mask(SQ, SKV)}, "padding_mask [6, 8] bool: reserved by CANN, must be None"),
    ({"actual_seq_qlen": [6]}, "actual_seq_qlen=[6]: only for input_layout TND"),
    ({"actual_seq_kvlen": [8]}, "actual_seq_kvlen=[8]: only for input_layout TND"),
    ({"softmax_layout": "TND"}, "softmax_layout='TND': must be empty unless input_layout is TND"),
    ({"drop_mask": mask(48)}, "drop_mask: dtype bool is not uint8"),
    ({"drop_mask": zeros(47, dtype=torch.uint8)}, "drop_mask [47] uint8: expected one dimension of at least 48 bytes, a bit for each of B*N*Sq*Skv=384"),
    ({"drop_mask": zeros(1, 48, dtype=torch.uint8)}, "drop_mask [1, 48] uint8: expected one dimension of at least 48 bytes"),
    ({"atten_mask": zeros(SQ, SKV)}, "atten_mask: dtype float32 is not bool or uint8"),
    ({"atten_mask": mask(SKV, SQ)}, "atten_mask [8, 6] bool: sparse_mode 0 takes [2, 4, 6, 8], [2, 1, 6, 8], [1, 1, 6, 8] or [6, 8]"),
    ({"atten_mask": mask(B, 2, SQ, SKV), "sparse_mode": 1}, "atten_mask [2, 2, 6, 8] bool: sparse_mode 1 takes"),
    ({"atten_mask": mask(1, N, SQ, SKV), "sparse_mode": 1}, "atten_mask [1, 4, 6, 8] bool: sparse_mode 1 takes"),
    ({"atten_mask": mask(B, SQ, SKV), "sparse_mode": 1}, "atten_mask [2, 6, 8] bool: sparse_mode 1 takes"),
    ({"atten_mask": mask(SQ, SKV), "sparse_mode": 5}, "atten_mask [6, 8] bool: sparse_mode 5 takes [2, 4, 6, 8], [2, 1, 6, 8] [161002]"),
    ({"atten_mask": mask(SQ, SKV), "sparse_mode": 2}, "atten_mask [6, 8] bool: sparse_mode 2 takes the compressed mask [2048, 2048]"),
    ({"atten_mask": mask(1, 1, 2048, 2048), "sparse_mode": 3}, "sparse_mode 3 takes the compressed mask [2048, 2048]"),
    ({"atten_mask": mask(2048, 2048), "sparse_mode": 6, "prefix": [2, 2]}, "sparse_mode 6 takes the compressed mask [3072, 2048]"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 4}, "sparse_mode 4 takes the compressed mask [2048, 2048]"),
    ({"atten_mask": mask(SQ, SKV), "pre_tockens": -3, "next_tockens": 2}, "pre_tockens=-3, next_tockens=2: the band of sparse_mode 0 holds no position of Sq=6, Skv=8"),
    ({"atten_mask": mask(SQ, SKV), "pre_tockens": -8}, "pre_tockens=-8"),
    ({"atten_mask": mask(SQ, SKV), "next_tockens": -6}, "next_tockens=-6"),
    ({"atten_mask": mask(SQ, SKV), "pre_tockens": -1, "next_tockens": -1}, "pre_tockens=-1, next_tockens=-1: the band of sparse_mode 0 holds no position"),
    ({"atten_mask": mask(SQ, SKV), "pre_tockens": 2, "next_tockens": -3}, "pre_tockens=2, next_tockens=-3: the band of sparse_mode 0 holds no position"),
    ({"atten_mask": mask(2048, 2048), "sparse_mode": 4, "pre_tockens": -1, "next_tockens": -1}, "pre_tockens=-1, next_tockens=-1: the band of sparse_mode 4 holds"),
    ({"atten_mask": mask(2048, 2048), "sparse_mode": 4, "pre_tockens": 2, "next_tockens": -3}, "pre_tockens=2, next_tockens=-3: the band of sparse_mode 4 holds"),
    ({"atten_mask": mask(2048, 2048), "sparse_mode": 4, "pre_tockens": -3, "next_tockens": 2}, "pre_tockens=-3, next_tockens=2: the band of sparse_mode 4 holds"),
    ({"atten_mask": mask(2048, 2048), "sparse_mode": 4, "next_tockens": -8}, "the band of sparse_mode 4 holds no position"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 6}, "prefix is None, sparse_mode 6 needs one length per batch element"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 6, "prefix": [2]}, "prefix [2] has 1 entries, the batch has 2"),
    ({"atten_mask": mask(B, 1, SQ, SKV), "sparse_mode": 5, "prefix": [2]}, "prefix [2] has 1 entries, the batch has 2"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 6, "prefix": [2, 9]}, "prefix[1]=9 is outside 2..8 for Sq=6, Skv=8"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 6, "prefix": [1, 8]}, "prefix[0]=1 is outside 2..8 for Sq=6, Skv=8"),
]  # fmt: skip

# Limits that memory forbids to reach for real: shapes only.
TOO_LARGE = [
    ({"head_num": 257, "query": (1, 257, 1, 1), "key": (1, 1, 1, 1)}, "head_num=257 is above the limit of 256"),
    ({"head_num": 1, "query": (1, 1, 1, 769), "key": (1, 1, 1, 769)}, "head size of query=769 is above the limit of 768"),
    ({"head_num": 1, "query": (1, 1, 2**20 + 1, 1), "key": (1, 1, 1, 1)}, "length of query=1048577 is above the limit of 1048576"),
    ({"head_num": 1, "query": (1, 1, 1, 1), "key": (1, 1, 2**20 + 1, 1)}, "length of key=1048577 is above the limit"),
    ({"head_num": 1, "query": (2**21 + 1, 1, 1, 1), "key": (2**21 + 1, 1, 1, 1)}, "batch of query=2097153 is above the limit"),
]  # fmt: skip


def call(changes):
    changes = dict(changes)
    return flash_attention_score(**arguments(changes.pop("layout", "BNSD"), **changes))


def names(cases):
    return [re.sub(r"[^\w=.]+", "-", message)[:60] for _, message in cases]


def refusals(run, exception):
    with pytest.raises(exception) as real:
        run()
    with FakeTensorMode(), pytest.raises(exception) as fake:
        run()
    assert str(real.value) == str(fake.value), "the kernel and the fake kernel must give one verdict"
    return str(real.value)


@pytest.mark.parametrize(("changes", "message"), INVALID, ids=names(INVALID))
def test_bad_input_is_refused_by_name(changes, message):
    text = refusals(lambda: call(changes), ValueError)
    assert message in text
    assert text.endswith("[161002]")


@pytest.mark.parametrize(("shapes", "message"), TOO_LARGE, ids=names(TOO_LARGE))
def test_limits_beyond_memory_hold_for_shapes(shapes, message):
    query = torch.empty(shapes["query"], device="meta")
    key = torch.empty(shapes["key"], device="meta")
    with pytest.raises(ValueError, match=re.escape(message)):
        flash_attention_score(query, key, key, shapes["head_num"], "BNSD")


@pytest.mark.parametrize("length", [2**20])
def test_the_largest_length_is_accepted(length):
    query = torch.empty(1, 1, length, 8, device="meta")
    assert flash_attention_score(query, query, query, 1, "BNSD").softmax_max.shape == (1, 1, length, 8)


@pytest.mark.parametrize("name", ["drop_mask", "keep_prob"])
def test_dropout_of_more_than_2_63_probabilities_is_refused_without_overflow(name):
    query = torch.empty(2**21, 256, 2**20, 1, device="meta")
    mask = torch.empty(2**40, dtype=torch.uint8, device="meta")
    attributes = {"drop_mask": mask} if name == "drop_mask" else {"keep_prob": 0.5, "seed": 1}
    with pytest.raises(ValueError, match=rf"{name}: B\*N\*Sq\*Skv of 2097152, 256, 1048576, 1048576 is beyond 2\^63"):
        flash_attention_score(query, query, query, 256, "BNSD", **attributes)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"atten_mask": (2048, 2048), "sparse_mode": 4}, {"atten_mask": (1100, 1100), "sparse_mode": 1}],
)
def test_1024_rows_of_pse_need_a_causal_mask(attributes):
    query = torch.empty(1, 2, 1100, 4, device="meta")
    pse = torch.empty(1, 2, 1024, 1100, device="meta")
    if attributes:
        shape = attributes["atten_mask"]
        attributes = attributes | {"atten_mask": torch.empty(shape, dtype=torch.bool, device="meta")}
    with pytest.raises(ValueError, match="1024 rows need a causal atten_mask with sparse_mode 0, 2 or 3"):
        flash_attention_score(query, query, query, 2, "BNSD", pse=pse, **attributes)


def test_prefix_of_more_than_2048_samples_is_refused():
    query = torch.empty(2049, 1, 1, 1, device="meta")
    mask = torch.empty(3072, 2048, dtype=torch.bool, device="meta")
    with pytest.raises(ValueError, match=r"prefix: batch 2049 is above the limit of 2048"):
        flash_attention_score(query, query, query, 1, "BNSD", atten_mask=mask, sparse_mode=6, prefix=[1] * 2049)


@pytest.mark.parametrize("name", ["query", "key", "value"])
@pytest.mark.parametrize("keep_prob", [1.0, 0.5])
def test_a_missing_tensor_is_a_null_pointer(name, keep_prob):
    text = refusals(lambda: call({name: None, "keep_prob": keep_prob}), ValueError)
    assert text == f"{name} is None, the operator needs it [161001]"


def test_a_refused_call_draws_no_seed():
    before = rng_state()
    with pytest.raises(ValueError, match="head_num=3"):
        call({"head_num": 3, "keep_prob": 0.5})
    assert torch.equal(rng_state(), before)


def test_a_legal_call_is_legal():
    for layout in ("BNSD", "BSND", "BSH", "SBH"):
        flash_attention_score(**arguments(layout))


def test_mode_5_accepts_a_missing_or_wide_prefix_because_the_mask_decides():
    full = torch.zeros(B, 1, SQ, SKV, dtype=torch.bool)
    for prefix in (None, [100, -1]):
        flash_attention_score(**arguments(atten_mask=full, sparse_mode=5, prefix=prefix))


def test_bands_with_a_negative_side_that_meet_the_scores_are_accepted():
    full = torch.zeros(SQ, SKV, dtype=torch.bool)
    flash_attention_score(**arguments(atten_mask=full, pre_tockens=-7))
    flash_attention_score(**arguments(atten_mask=full, next_tockens=-5))
    flash_attention_score(**arguments(atten_mask=compressed_atten_mask(4), sparse_mode=4, next_tockens=-7))


def grad_arguments():
    call = arguments()
    output = flash_attention_score(**call)
    stats = {"softmax_max": output.softmax_max, "softmax_sum": output.softmax_sum}
    return call | stats | {"softmax_in": None, "attention_in": output.attention_out, "dy": output.attention_out}


GRAD_INVALID = [
    *(({name: None}, f"{name} is None, the operator needs it [161001]") for name in ("query", "key", "value", "dy")),
    ({"softmax_max": None}, "softmax_max is None, the backward needs the forward's [161001]"),
    ({"softmax_sum": None}, "softmax_sum is None, the backward needs the forward's [161001]"),
    ({"attention_in": None}, "attention_in is None, the backward needs the forward's output [161001]"),
    ({"softmax_max": zeros(B, N, SQ, 1)}, "softmax_max [2, 4, 6, 1] float32: expected [2, 4, 6, 8] [161002]"),
    ({"softmax_sum": zeros(B, N, SQ, 1)}, "softmax_sum [2, 4, 6, 1] float32: expected [2, 4, 6, 8] [161002]"),
    ({"softmax_sum": zeros(B, N, SQ, 8, dtype=torch.float16)}, "softmax_sum [2, 4, 6, 8] float16: expected float32"),
    (
        {"softmax_max": zeros(B, N, SQ, 8, dtype=torch.float16)},
        "softmax_max [2, 4, 6, 8] float16: expected float32 [161002]",
    ),
    ({"softmax_in": zeros()}, "softmax_in [] float32: reserved by CANN, must be None or empty [161002]"),
    ({"softmax_in": zeros(3)}, "softmax_in [3] float32: reserved by CANN, must be None or empty [161002]"),
    ({"dy": zeros(B, N, SQ, D + 1)}, "dy [2, 4, 6, 17] float32: expected [2, 4, 6, 16] [161002]"),
    ({"dy": zeros(B, N, SQ, D, dtype=torch.bfloat16)}, "dy: dtype bfloat16 differs from float32 of query [161002]"),
    ({"attention_in": zeros(B, N, SQ)}, "attention_in [2, 4, 6] float32: expected [2, 4, 6, 16] [161002]"),
    (
        {"attention_in": zeros(B, N, SQ, D, dtype=torch.bfloat16)},
        "attention_in: dtype bfloat16 differs from float32 of query [161002]",
    ),
    ({"head_num": 0}, "head_num=0 must be positive [161002]"),
]


@pytest.mark.parametrize(("changes", "message"), GRAD_INVALID, ids=names(GRAD_INVALID))
def test_bad_input_of_the_backward_is_refused_by_name(changes, message):
    def run():
        call = grad_arguments() | {name: make() if callable(make) else make for name, make in changes.items()}
        flash_attention_score_grad(**call)

    assert message in refusals(run, ValueError)


QUERY_DEVICE = torch.empty(0, device=DEVICE).device  # with its number, if such devices have one
# Of every tensor argument one that would be legal if it were on the device of query.
ELSEWHERE = {
    "key": (B, NKV, SKV, D),
    "value": (B, NKV, SKV, D),
    "pse": (B, N, SQ, SKV),
    "drop_mask": (48,),
    "padding_mask": (SQ, SKV),
    "atten_mask": (SQ, SKV),
    "sink": (N,),
    "query_rope": (SQ, N, D),
    "key_rope": (SKV, NKV, D),
}
ELSEWHERE_GRAD = ELSEWHERE | {
    "dy": (B, N, SQ, D),
    "softmax_max": (B, N, SQ, 8),
    "softmax_sum": (B, N, SQ, 8),
    "softmax_in": (0,),
    "attention_in": (B, N, SQ, D),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_tensors_on_two_devices_are_refused_by_name(name):
    text = refusals(lambda: call({name: torch.zeros(ELSEWHERE[name], device="meta")}), ValueError)
    assert text == f"{name}: device meta differs from {QUERY_DEVICE} of query [161002]"


@pytest.mark.parametrize("name", ELSEWHERE_GRAD)
def test_tensors_of_the_backward_on_two_devices_are_refused_by_name(name):
    def run():
        elsewhere = torch.zeros(ELSEWHERE_GRAD[name], device="meta")
        flash_attention_score_grad(**grad_arguments() | {name: elsewhere})

    assert refusals(run, ValueError) == f"{name}: device meta differs from {QUERY_DEVICE} of query [161002]"


def test_every_tensor_argument_has_a_device_to_differ_by():
    for op, elsewhere in (("flash_attention_score", ELSEWHERE), ("flash_attention_score_grad", ELSEWHERE_GRAD)):
        schema = getattr(torch.ops.ascendspeed, op).default._schema
        assert {a.name for a in schema.arguments if "Tensor" in str(a.type)} == {"query", *elsewhere}
