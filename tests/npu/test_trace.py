"""What reaches aclnn for each sparse mode: what goes wrong in a user's first hour on a real card."""

import pytest
import torch

from ascendspeed.ops import compressed_atten_mask, flash_attention_score
from ascendspeed.ops.flash_attention import NO_LIMIT

LENGTH, HEADS, DIM = 8192, 2, 16
COMPRESSED = [2048, 2048]
LENGTHS = [3000, 3001, 8192]  # cumulative
LAYOUTS = {"BSH": (1, LENGTH, HEADS * DIM), "SBH": (LENGTH, 1, HEADS * DIM), "BNSD": (1, HEADS, LENGTH, DIM)}
LAYOUTS |= {"BSND": (1, LENGTH, HEADS, DIM), "TND": (LENGTH, HEADS, DIM)}

# (sparse_mode, layout, attributes besides the mask, the mask's shape as aclnn must see it)
MODES = [
    (0, "BSH", {}, None),
    (2, "BSH", {}, COMPRESSED),
    (2, "SBH", {}, COMPRESSED),
    (3, "BSND", {}, COMPRESSED),
    (4, "BNSD", {"pre_tockens": 511, "next_tockens": 0}, COMPRESSED),
    (6, "BSH", {"prefix": [700]}, [3072, 2048]),
    (2, "TND", {}, COMPRESSED),
    (3, "TND", {}, COMPRESSED),
    (4, "TND", {"pre_tockens": 511, "next_tockens": 0}, COMPRESSED),
    (7, "TND", {"pre_tockens": 100000, "next_tockens": 0}, COMPRESSED),
    (8, "TND", {"pre_tockens": 100000, "next_tockens": 0}, COMPRESSED),
]


def tensors_of(arguments: dict) -> dict[str, list[int]]:
    return {name: value["shape"] for name, value in arguments.items() if isinstance(value, dict)}


@pytest.mark.parametrize(("mode", "layout", "attributes", "mask_shape"), MODES)
def test_the_record_of_a_mode(trace, mode, layout, attributes, mask_shape):
    packed = {"actual_seq_qlen": LENGTHS, "actual_seq_kvlen": LENGTHS} if layout == "TND" else {}
    mask = None if mask_shape is None else compressed_atten_mask(mode).npu()
    query, key, value = (
        torch.randn(LAYOUTS[layout], dtype=torch.bfloat16, device="npu", requires_grad=True) for _ in range(3)
    )
    torch.npu.synchronize()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    out = flash_attention_score(
        query, key, value, HEADS, layout, atten_mask=mask, sparse_mode=mode, scale=0.25, **attributes, **packed
    )
    out.attention_out.backward(torch.ones_like(out.attention_out))
    forward, backward = trace.first_phases()

    is_packed = layout == "TND"
    assert forward["function"] == "aclnnFlashAttention" + ("VarLenScoreV5" if is_packed else "ScoreV3")
    assert backward["function"] == "aclnnFlashAttention" + ("UnpaddingScoreGradV5" if is_packed else "ScoreGradV3")
    for record in (forward, backward):
        arguments = record["arguments"]
        given = {"sparse_mode": mode, "head_num": HEADS, "input_layout": layout, "scale": 0.25, "keep_prob": 1.0}
        given |= {"pre_tockens": NO_LIMIT, "next_tockens": NO_LIMIT, "prefix": None, "inner_precise": 0, "pse_type": 1}
        given |= {"actual_seq_qlen": None, "actual_seq_kvlen": None, "q_start_idx": None, "kv_start_idx": None}
        given |= attributes | packed
        assert {name: arguments[name] for name in given} == given
        shapes = tensors_of(arguments)
        assert shapes.get("atten_mask") == mask_shape
        stats = [LENGTH, HEADS, 8] if is_packed else [1, HEADS, LENGTH, 8]
        assert shapes["softmax_max"] == shapes["softmax_sum"] == stats
        assert {"pse", "drop_mask", "padding_mask", "sink", "query_rope", "key_rope"}.isdisjoint(shapes)
        # Nothing of the size of the scores is passed: the mask is the largest of its kind.
        large = [*LAYOUTS[layout]]
        for name, shape in shapes.items():
            assert shape in (large, stats, mask_shape, [0]), (name, shape)
    # And nothing of that size was on the device meanwhile, workspace included.
    assert torch.npu.max_memory_allocated() - before < LENGTH * LENGTH


def test_a_view_is_described_and_not_copied(trace):
    """Megatron's query, key and value are slices of one projection."""
    whole = torch.randn(64, 2, 4, 3 * DIM, dtype=torch.bfloat16, device="npu")
    query, key, value = (part.transpose(0, 1) for part in whole.split(DIM, dim=-1))
    flash_attention_score(query, key, value, 4, "BSND")
    (record,) = trace.first_phases()
    for index, name in enumerate(("query", "key", "value")):
        tensor = record["arguments"][name]
        assert tensor["shape"] == [2, 64, 4, DIM]
        assert tensor["strides"] == [4 * 3 * DIM, 2 * 4 * 3 * DIM, 3 * DIM, 1]
        assert tensor["offset"] == index * DIM
        assert tensor["storage_shape"] == [whole.numel()]


def test_dropout_is_a_mask_made_on_the_device(trace):
    query = torch.randn(1, 2, 96, DIM, dtype=torch.bfloat16, device="npu", requires_grad=True)
    out = flash_attention_score(query, query, query, 2, "BNSD", keep_prob=0.8, seed=7, offset=3)
    out.attention_out.sum().backward()
    masks = [record["arguments"]["drop_mask"] for record in trace.first_phases()]
    assert [mask["shape"] for mask in masks] == [[2 * 96 * 96 // 8]] * 2
    assert [mask["dtype"] for mask in masks] == ["ACL_UINT8"] * 2
