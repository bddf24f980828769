"""Each refusal that only packed batches (TND) have, or that rope inputs have, in the manner of test_rules.py."""

import re

import pytest
import torch

from ascendspeed.ops import compressed_atten_mask
from tests.ops.test_rules import mask, names, refusals, zeros
from tests.support.operator import flash_attention_score, flash_attention_score_grad

N, NKV, D, DROPE = 4, 2, 16, 8
Q_ENDS, KV_ENDS = [2, 5], [4, 8]  # Sq 2 and 3, Skv 4 and 4


def arguments(**changes):
    """A legal call, changed by name; tensors are made on the current default device."""
    q_total, kv_total = 5, 8
    call = {
        "query": torch.zeros(q_total, N, D),
        "key": torch.zeros(kv_total, NKV, D),
        "value": torch.zeros(kv_total, NKV, D),
        "head_num": N,
        "input_layout": "TND",
        "actual_seq_qlen": Q_ENDS,
        "actual_seq_kvlen": KV_ENDS,
    }
    return call | {name: make() if callable(make) else make for name, make in changes.items()}


def compressed(mode, **others):
    return {"atten_mask": mask(3072 if mode == 6 else 2048, 2048), "sparse_mode": mode, **others}


def lengths(q_ends, kv_ends, **others):
    """The call with other lengths, and tensors that fit them."""
    q_total, kv_total = max(q_ends), max(kv_ends)
    return {
        "query": zeros(q_total, N, D),
        "key": zeros(kv_total, NKV, D),
        "value": zeros(kv_total, NKV, D),
        "actual_seq_qlen": q_ends,
        "actual_seq_kvlen": kv_ends,
        **others,
    }


INVALID = [
    ({"query": zeros(1, 5, N, D)}, "query [1, 5, 4, 16] (layout TND) has rank 4, the layout has rank 3"),
    ({"head_num": 2}, "head_num=2 is not the head count 4 of query [5, 4, 16] (layout TND)"),
    ({"value": zeros(7, NKV, D)}, "value: length 7 of value [7, 2, 16] (layout TND) differs from 8 of key"),
    ({"actual_seq_qlen": []}, "actual_seq_qlen is empty, input_layout TND needs a number for each sequence"),
    ({"actual_seq_kvlen": []}, "actual_seq_kvlen is empty"),
    ({"actual_seq_qlen": [5]}, "actual_seq_kvlen has 2 entries, actual_seq_qlen has 1"),
    ({"actual_seq_qlen": [0] * 20001}, "actual_seq_qlen has 20001 entries, above the limit of 20000"),
    ({"actual_seq_kvlen": [0] * 20001}, "actual_seq_kvlen has 20001 entries, above the limit of 20000"),
    ({"actual_seq_qlen": [-1, 5]}, "actual_seq_qlen[0]=-1 is below 0 before it: lengths are cumulative"),
    ({"actual_seq_kvlen": [8, 4]}, "actual_seq_kvlen[1]=4 is below 8 before it: lengths are cumulative"),
    ({"actual_seq_qlen": [5, 0, 5], "actual_seq_kvlen": [8, 8, 8]}, "actual_seq_qlen[2]=5 follows the zeros that end the list"),
    ({"actual_seq_qlen": [2, 6]}, "actual_seq_qlen: the sequences end at 6, query has T=5"),
    ({"actual_seq_kvlen": [4, 9]}, "actual_seq_kvlen: the sequences end at 9, key has T=8"),
    ({"actual_seq_qlen": [2, 4], "actual_seq_kvlen": [4, 7]}, "actual_seq_qlen: the sequences end at 4 of T=5 and at 7 of T=8 of key; to leave out a tail, both lists must end in 0"),
    ({"actual_seq_qlen": [4, 0], "actual_seq_kvlen": [4, 7]}, "both lists must end in 0"),
    ({"sparse_mode": 5}, "sparse_mode=5: not for input_layout TND, whose prefix mode is 6"),
    ({"sparse_mode": 9}, "sparse_mode=9 is outside 0..8"),
    ({"sparse_mode": -1}, "sparse_mode=-1 is outside 0..8"),
    ({"softmax_layout": "BNS"}, "softmax_layout='BNS' is not one of '', 'TND', 'same_as_input'"),
    ({"atten_mask": mask(5, 8)}, "atten_mask [5, 8] bool: sparse_mode 0 takes the longest lengths of the packed batch, [3, 4]"),
    ({"atten_mask": mask(1, 1, 3, 4), "sparse_mode": 1}, "sparse_mode 1 takes the longest lengths of the packed batch, [3, 4]"),
    ({"atten_mask": mask(3, 4), "sparse_mode": 7}, "sparse_mode 7 takes the compressed mask [2048, 2048]"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 8}, "sparse_mode 8 takes the compressed mask [2048, 2048]"),
    ({"atten_mask": mask(3, 4), "next_tockens": -2}, "next_tockens=-2: the band of sparse_mode 0 holds no position of Sq=2, Skv=4 of sequence 0"),
    (compressed(4, next_tockens=-4), "the band of sparse_mode 4 holds no position of Sq=2, Skv=4 of sequence 0"),
    (compressed(4, pre_tockens=-1, next_tockens=-1), "pre_tockens=-1, next_tockens=-1: the band of sparse_mode 4 holds no position of Sq=2, Skv=4 of sequence 0"),
    ({"atten_mask": mask(3, 4), "pre_tockens": 1, "next_tockens": -2}, "pre_tockens=1, next_tockens=-2: the band of sparse_mode 0 holds no position of Sq=2, Skv=4 of sequence 0"),
    (lengths([2, 7], [4, 8], **compressed(3)), "sparse_mode=3: more query rows than keys, which packed sequences must not have here: Sq=5, Skv=4 of sequence 1"),
    (compressed(6), "prefix is None, sparse_mode 6 needs one length per batch element"),
    (compressed(6, prefix=[4]), "prefix [4] has 1 entries, the batch has 2"),
    (compressed(6, prefix=[4, 0]), "prefix[1]=0 is outside 1..4 for Sq=3, Skv=4 of sequence 1"),
    (compressed(6, prefix=[4, 5]), "prefix[1]=5 is outside 1..4 for Sq=3, Skv=4 of sequence 1"),
    (compressed(7, pre_tockens=3, next_tockens=0), "pre_tockens=3: sparse_mode 7 with the band on Sq=3, Skv=4 of sequence 1 needs at least 4"),
    (compressed(7, next_tockens=1), "next_tockens=1: sparse_mode 7 with the band on Sq=3, Skv=4 of sequence 1 needs -1..0"),
    (compressed(7, next_tockens=-2), "next_tockens=-2: sparse_mode 7 with the band on Sq=3, Skv=4 of sequence 1 needs -1..0"),
    (lengths([5, 7], [4, 8], **compressed(7, next_tockens=0)), "sparse_mode=7: more query rows than keys, which packed sequences must not have here: Sq=5, Skv=4 of sequence 0"),
    (lengths([2, 5, 5], [4, 8, 9], **compressed(7, pre_tockens=3, next_tockens=0)), "with the band on Sq=3, Skv=4 of sequence 1"),
    (lengths([4, 7], [4, 8], **compressed(7, next_tockens=0, pse=zeros(N), pse_type=2)), "pse [4] float32: must be None in sparse_mode 7"),
    (compressed(8, pre_tockens=3), "pre_tockens=3: sparse_mode 8 with the band on Sq=2, Skv=4 of sequence 0 needs at least 4"),
    (compressed(8, next_tockens=-3), "next_tockens=-3: sparse_mode 8 with the band on Sq=2, Skv=4 of sequence 0 needs at least -2"),
    (compressed(8, pse=zeros(N), pse_type=2), "pse: in sparse_mode 8 Sq - Skv + q_start_idx - kv_start_idx must be 0, here -2 for Sq=2, Skv=4 of sequence 0"),
    (compressed(8, pse=zeros(N), pse_type=2, q_start_idx=[2], kv_start_idx=[0]), "pse: in sparse_mode 8 Sq - Skv must be 0, here -1 for Sq=3, Skv=4 of sequence 1"),
    (lengths([0, 5], [4, 8], **compressed(7, pre_tockens=2, next_tockens=0)), "with the band on Sq=5, Skv=4 of sequence 1"),
    ({"actual_seq_qlen": [0, 5], "pse": zeros(N * 20)}, "pse: every sequence of a packed batch must have rows and keys, here Sq=0, Skv=4 of sequence 0"),
    ({"pse": zeros(79)}, "pse [79] float32: a packed batch takes [N*sum(Sq*Skv)]=[80], [N*sum(Skv)]=[32] or [1 or 2, 4, 1024, 4]"),
    ({"pse": zeros(2, N, 3, 4)}, "pse [2, 4, 3, 4] float32: a packed batch takes"),
    ({"pse": zeros(80, dtype=torch.float16)}, "pse [80] float16: dtype differs from float32 of query"),
    ({"pse": zeros(1, N, 1024, 4)}, "1024 rows stand for at least 1024 query rows and as many keys, here Sq=2, Skv=4 of sequence 0"),
    ({"pse": zeros(N), "pse_type": 3}, "pse: pse_type 3 needs as many query rows as keys, here Sq=2, Skv=4 of sequence 0"),
    (lengths([4, 8], [4, 8], pse=zeros(3, N), pse_type=2), "pse [3, 4] float32: pse_type 2 takes slopes [4] or [2, 4]"),
    ({"drop_mask": zeros(9, dtype=torch.uint8)}, "drop_mask [9] uint8: expected one dimension of at least 10 bytes, a bit for each of N*sum(Sq*Skv)=80 probabilities"),
]  # fmt: skip

MISSING = [
    ({"actual_seq_qlen": None}, "actual_seq_qlen is None, input_layout TND needs it"),
    ({"actual_seq_kvlen": None}, "actual_seq_kvlen is None, input_layout TND needs it"),
]


@pytest.mark.parametrize(("changes", "message"), INVALID, ids=names(INVALID))
def test_bad_packed_input_is_refused_by_name(changes, message):
    text = refusals(lambda: flash_attention_score(**arguments(**changes)), ValueError)
    assert message in text
    assert text.endswith("[161002]")


@pytest.mark.parametrize(("changes", "message"), MISSING, ids=names(MISSING))
def test_missing_lengths_are_null_pointers(changes, message):
    text = refusals(lambda: flash_attention_score(**arguments(**changes)), ValueError)
    assert text == f"{message} [161001]"


LEGAL = [
    {},
    {"actual_seq_qlen": [2, 5, 0], "actual_seq_kvlen": [4, 8, 0]},
    {"actual_seq_qlen": [2, 4, 0], "actual_seq_kvlen": [4, 7, 0]},
    {"actual_seq_qlen": [2, 4]},  # a tail of query alone needs no zeros
    {"actual_seq_qlen": [0, 2, 2, 5], "actual_seq_kvlen": [0, 4, 4, 8]},
    {"softmax_layout": "TND"},
    {"softmax_layout": "same_as_input"},
    lengths([0, 5], [4, 8], **compressed(3, actual_seq_kvlen=[3, 8])),  # an empty sequence breaks no rule
    lengths([5, 5], [5, 5], **compressed(7, pre_tockens=5, next_tockens=0)),  # the band is on sequence 0
    lengths([5], [8], **compressed(7, pre_tockens=2, next_tockens=5)),  # one sequence: as mode 4
    lengths([8], [8], **compressed(7, pse=zeros(N), pse_type=2)),
    lengths([5], [8], **compressed(8, pse=zeros(N * 40))),
    lengths([5], [8], **compressed(8, pre_tockens=3, next_tockens=-3)),
    compressed(8, next_tockens=1),
    lengths([2, 6], [4, 8], **compressed(8, pse=zeros(N), pse_type=2, q_start_idx=[2], kv_start_idx=[0])),
    compressed(7, sparse_mode=7, atten_mask=None),  # without a mask the mode is ignored
]


@pytest.mark.parametrize("changes", LEGAL)
def test_legal_packed_calls_are_accepted(changes):
    flash_attention_score(**arguments(**changes))


def test_prefix_of_more_than_1024_sequences_is_refused():
    ends = list(range(1, 1026))
    query = torch.empty(1025, 1, 8, device="meta")
    with pytest.raises(ValueError, match=r"prefix: batch 1025 is above the limit of 1024 that prefix has \[161002\]"):
        flash_attention_score(
            query, query, query, 1, "TND", actual_seq_qlen=ends, actual_seq_kvlen=ends, prefix=[1] * 1025,
            sparse_mode=6, atten_mask=torch.empty(3072, 2048, dtype=torch.bool, device="meta"),
        )  # fmt: skip


def test_the_longest_packed_batch_is_accepted_and_a_longer_one_is_not():
    for total in (2**20, 2**20 + 1):
        query = torch.empty(total, 1, 8, device="meta")
        attend = {"actual_seq_qlen": [total], "actual_seq_kvlen": [total]}
        if total == 2**20:
            assert flash_attention_score(query, query, query, 1, "TND", **attend).softmax_max.shape == (total, 1, 8)
        else:
            with pytest.raises(ValueError, match=r"length of query=1048577 is above the limit of 1048576 \[161002\]"):
                flash_attention_score(query, query, query, 1, "TND", **attend)


def test_more_packed_keys_than_the_limit_are_refused():
    query, key = torch.empty(4, 1, 8, device="meta"), torch.empty(2**20 + 1, 1, 8, device="meta")
    with pytest.raises(ValueError, match=r"length of key=1048577 is above the limit of 1048576 \[161002\]"):
        flash_attention_score(query, key, key, 1, "TND", actual_seq_qlen=[4], actual_seq_kvlen=[2**20 + 1])


def rope_arguments(**changes):
    """A legal call with rope inputs."""
    call = arguments(**{name: zeros(total, heads, D, dtype=torch.bfloat16) for name, total, heads in (
        ("query", 5, N), ("key", 8, NKV), ("value", 8, NKV))})  # fmt: skip
    call |= {
        "query_rope": torch.zeros(5, N, DROPE, dtype=torch.bfloat16),
        "key_rope": torch.zeros(8, NKV, DROPE, dtype=torch.bfloat16),
        "atten_mask": torch.zeros(2048, 2048, dtype=torch.bool),
        "sparse_mode": 3,
    }
    return call | {name: make() if callable(make) else make for name, make in changes.items()}


def dense_rope():
    shapes = {"query": (2, N, 3, D), "key": (2, NKV, 3, D), "value": (2, NKV, 3, D)}
    call = {name: zeros(*shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    return call | {"input_layout": "BNSD", "actual_seq_qlen": None, "actual_seq_kvlen": None}


BF16 = torch.bfloat16
ROPE_INVALID = [
    ({"query_rope": None}, "query_rope is None, key_rope needs it [161001]"),
    ({"key_rope": None}, "key_rope is None, query_rope needs it [161001]"),
    (dense_rope(), "query_rope [5, 4, 8] bfloat16: only for input_layout TND, here BNSD [161002]"),
    ({"query_rope": zeros(5, N, DROPE)}, "query_rope [5, 4, 8] float32: must be bfloat16 like all tensors beside it, query is bfloat16 [161002]"),
    ({"key_rope": zeros(8, NKV, DROPE, dtype=torch.float16)}, "key_rope [8, 2, 8] float16: must be bfloat16 like all tensors beside it, key is bfloat16 [161002]"),
    ({name: zeros(t, n, D, dtype=torch.float16) for name, t, n in (("query", 5, N), ("key", 8, NKV), ("value", 8, NKV))},
     "query_rope [5, 4, 8] bfloat16: must be bfloat16 like all tensors beside it, query is float16 [161002]"),
    ({"query_rope": zeros(4, N, DROPE, dtype=BF16)}, "query_rope [4, 4, 8] bfloat16: expected the shape [5, 4, 16] of query with heads of at most its size [161002]"),
    ({"key_rope": zeros(8, N, DROPE, dtype=BF16)}, "key_rope [8, 4, 8] bfloat16: expected the shape [8, 2, 16] of key"),
    ({"query_rope": zeros(5, N, D + 1, dtype=BF16)}, "query_rope [5, 4, 17] bfloat16: expected the shape"),
    ({"query_rope": zeros(5, N * DROPE, dtype=BF16)}, "query_rope [5, 32] bfloat16: expected the shape [5, 4, 16] of query with heads of at most its size [161002]"),
    ({"key_rope": zeros(1, 8, NKV, DROPE, dtype=BF16)}, "key_rope [1, 8, 2, 8] bfloat16: expected the shape [8, 2, 16] of key with heads of at most its size [161002]"),
    ({"key_rope": zeros(8, NKV, 4, dtype=BF16)}, "key_rope [8, 2, 4] bfloat16: head size differs from 8 of query_rope [161002]"),
    ({"atten_mask": None}, "atten_mask is None, query_rope needs one [161002]"),
    ({"atten_mask": mask(3072, 2048), "sparse_mode": 6, "prefix": [4, 4]}, "sparse_mode=6: not with query_rope [161002]"),
    ({"pse": zeros(N * 20, dtype=BF16)}, "pse [80] bfloat16: must be None with query_rope [161002]"),
    ({"drop_mask": zeros(10, dtype=torch.uint8)}, "drop_mask [10] uint8: must be None with query_rope [161002]"),
    ({"keep_prob": 0.5, "seed": 1}, "keep_prob=0.5 must be 1 with query_rope [161002]"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), ROPE_INVALID, ids=names(ROPE_INVALID))
def test_bad_rope_input_is_refused_by_name(changes, message):
    text = refusals(lambda: flash_attention_score(**rope_arguments(**changes)), ValueError)
    assert message in text


def test_the_backward_knows_the_shape_of_packed_statistics():
    call = arguments()
    output = flash_attention_score(**call)
    saved = {"softmax_max": output.softmax_max, "softmax_sum": output.softmax_sum.transpose(0, 1).contiguous()}
    message = re.escape("softmax_sum [4, 5, 8] float32: expected [5, 4, 8] [161002]")
    with pytest.raises(ValueError, match=message):
        flash_attention_score_grad(
            **call, **saved, softmax_in=None, attention_in=output.attention_out, dy=output.attention_out
        )


def test_an_accepted_rope_call_differs_from_one_without():
    torch.manual_seed(0)
    call = {name: torch.randn_like(t) if isinstance(t, torch.Tensor) and t.dtype == BF16 else t
            for name, t in rope_arguments(atten_mask=compressed_atten_mask(3)).items()}  # fmt: skip
    with_rope = flash_attention_score(**call).attention_out
    assert not torch.equal(
        with_rope, flash_attention_score(**call | {"query_rope": None, "key_rope": None}).attention_out
    )
