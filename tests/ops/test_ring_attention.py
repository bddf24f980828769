"""npu_ring_attention_update: parts of the keys merged are the whole, to a derived bound, and so are their gradients."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ascendspeed.ops import compressed_atten_mask, reference
from ascendspeed.ops.layout import to_bnsd
from tests.ops.test_flash_attention_score import within
from tests.support.bounds import bounds
from tests.support.cases import DTYPES, Case
from tests.support.operator import (
    flash_attention_score,
    npu_fusion_attention,
    npu_fusion_attention_grad,
    npu_ring_attention_update,
)

FLT_MAX = torch.finfo(torch.float32).max
_U = torch.finfo(torch.float32).eps / 2
_TINY = torch.finfo(torch.float32).smallest_normal  # what a weight that underflows may lose; sums are at least 1
_EXP = 4 * _U  # torch.exp is within 2 ulp


class Part(NamedTuple):
    """A result in float64, [B, N, S, Dv] and [B, N, S], and how far the computed one may be from it."""

    out: Tensor
    maximum: Tensor
    total: Tensor
    out_error: Tensor
    max_error: Tensor
    total_error: Tensor  # relative


def part_of(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Part:
    exact = reference.attention(query, key, value, scale=scale, mask=mask)
    bound = bounds(query, key, value, torch.zeros_like(exact.attention_out), scale=scale, mask=mask)
    return Part(*exact[:3], bound.attention_out, bound.softmax_max, bound.softmax_sum / exact.softmax_sum)


def merged(one: Part, other: Part, dtype: torch.dtype) -> Part:
    """The exact merge, with the errors of both parts carried on and those of the merge itself added.

    A weight a = sum * exp(max - m) has the relative errors of its sum, of exp, of the product, and the absolute ones of
    two maxima and their difference in the exponent. The total has the larger of the two plus a sum's; a share a / total
    both plus a quotient's. A row without keys in one part is the other part's, with no error added.
    """
    maximum = torch.maximum(one.maximum, other.maximum)
    max_error = torch.maximum(one.max_error, other.max_error)
    weights, errors = [], []
    for part in (one, other):
        drop = maximum - part.maximum
        weights.append(part.total * torch.exp(-drop))
        exponent = part.max_error + max_error + _U * drop
        errors.append(torch.expm1(exponent + part.total_error + _EXP + _U))
    total = weights[0] + weights[1]
    total_error = torch.maximum(*errors) + _U + _TINY
    out, out_error = 0.0, 0.0
    for part, weight, error in zip((one, other), weights, errors, strict=True):
        share = (weight / total).unsqueeze(-1)
        share_error = (weight / total * (error + total_error + _U)).unsqueeze(-1) + _TINY
        out = out + share * part.out
        out_error = (
            out_error + share * part.out_error + (share_error + 2 * _U * share) * (part.out.abs() + part.out_error)
        )
    out_error = out_error + torch.finfo(dtype).eps / 2 * (out.abs() + out_error)
    out_error = out_error + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # a result that underflows
    result = Part(out, maximum, total, out_error, max_error, total_error)
    for empty, kept in ((one, other), (other, one)):
        row = empty.maximum == -FLT_MAX
        result = Part(*(
            torch.where(row.unsqueeze(-1) if a.ndim == 4 else row, a, b) for a, b in zip(kept, result, strict=True)
        ))  # fmt: skip
    return result


def check_merge(actual: tuple[Tensor, Tensor, Tensor], expected: Part) -> None:
    """attn_out as [B, N, S, D], statistics as [B, N, S, 8]."""
    within("attn_out", actual[0], expected.out, expected.out_error)
    for name, lanes, exact, error in (
        ("softmax_max", actual[1], expected.maximum, expected.max_error),
        ("softmax_sum", actual[2], expected.total, expected.total_error * expected.total),
    ):
        assert (lanes == lanes[..., :1]).all(), f"{name}: the 8 lanes differ"
        within(name, lanes[..., 0], exact, error)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Case, list[int]]:
    """A problem in SBH whose mask leaves some rows without keys, and the sizes of 2 to 4 parts of its keys."""
    kv_heads = draw(st.integers(1, 2))
    sizes = draw(st.lists(st.integers(1, 60), min_size=2, max_size=4))
    depth = draw(st.integers(1, 40))
    kv_len = sum(sizes)
    case = Case(
        batch=draw(st.integers(1, 2)), heads=kv_heads * draw(st.integers(1, 3)), kv_heads=kv_heads,
        q_len=draw(st.one_of(st.just(kv_len), st.integers(1, 90))), kv_len=kv_len, qk_dim=depth,
        v_dim=draw(st.integers(1, depth)), dtype=draw(st.sampled_from(DTYPES)), layout="SBH", masked=True,
        sparse_mode=draw(st.sampled_from([1, 2, 3])), mask_density=draw(st.sampled_from([0.0, 0.5, 0.97])),
        scale=draw(st.sampled_from([None, 3.0])), seed=draw(st.integers(0, 2**31)),
    )  # fmt: skip
    return case, sizes


class Ring(NamedTuple):
    """A problem, its parts of keys, what each gave and what they give together."""

    tensors: tuple[Tensor, Tensor, Tensor, Tensor]  # query, key, value, dy in SBH
    parts: list[tuple[Tensor, Tensor, Tensor]]  # key, value and mask of each
    merged: tuple[Tensor, Tensor, Tensor]
    expected: Part
    bnsd: tuple[Tensor, Tensor, Tensor]


def ring(case: Case, sizes: list[int]) -> Ring:
    query, key, value, dy = case.tensors()
    mask = case.excluded()
    bnsd = case.bnsd(query, key, value)
    parts = list(zip(*(t.split(sizes, dim) for t, dim in ((key, 0), (value, 0), (mask, -1))), strict=True))
    together, expected, done = None, None, 0
    for (k, v, m), size in zip(parts, sizes, strict=True):
        cur = npu_fusion_attention(query, k, v, case.heads, "SBH", atten_mask=m, scale=case.factor, sparse_mode=1)[:3]
        part = part_of(bnsd[0], *(t[:, :, done : done + size] for t in bnsd[1:]), case.factor, m)
        together = cur if together is None else npu_ring_attention_update(*together, *cur)
        expected = part if expected is None else merged(expected, part, case.dtype)
        done += size
    return Ring((query, key, value, dy), parts, together, expected, bnsd)


@given(problems())
def test_merged_parts_are_the_whole(problem):
    case, sizes = problem
    result = ring(case, sizes)
    whole = reference.attention(*result.bnsd, scale=case.factor, mask=case.excluded())
    torch.testing.assert_close(result.expected.out, whole.attention_out)  # float64: the bound is about the whole
    out, *stats = result.merged
    assert out.shape == result.tensors[3].shape
    assert out.dtype == case.dtype
    assert all(t.is_contiguous() for t in result.merged)
    check_merge((to_bnsd(out, "SBH", case.heads), *stats), result.expected)
    nothing = case.excluded().all(dim=-1)
    assert (stats[0][nothing] == -FLT_MAX).all()
    assert (stats[1][nothing] == FLT_MAX).all()
    assert (to_bnsd(out, "SBH", case.heads)[nothing] == 0).all()


@given(problems())
def test_gradients_of_the_parts_add_up_to_the_whole(problem):
    """Each from the merged statistics and output; dq is summed in float64, so that only the parts' rounding is added.

    The bound of one call, and the first-order effect of the merge's errors: a relative one of p, from maximum and sum,
    and one of delta = sum(dy * out).
    """
    case, sizes = problem
    result = ring(case, sizes)
    query, _, _, dy = result.tensors
    out, softmax_max, softmax_sum = result.merged
    grads = [
        npu_fusion_attention_grad(
            query, k, v, dy, case.heads, "SBH", atten_mask=m, scale_value=case.factor, sparse_mode=1,
            softmax_max=softmax_max, softmax_sum=softmax_sum, attention_in=out,
        )
        for k, v, m in result.parts
    ]  # fmt: skip
    dq = sum(g[0].double() for g in grads)
    dk, dv = (torch.cat([g[i] for g in grads]) for i in (1, 2))

    q, k, _ = (t.double() for t in result.bnsd)
    dy = to_bnsd(dy, "SBH", case.heads)
    problem = {"scale": case.factor, "mask": case.excluded()}
    exact = reference.attention_grad(*result.bnsd, dy, **problem)
    bound = bounds(*result.bnsd, dy, **problem)
    dy, p = dy.double(), reference.attention(*result.bnsd, **problem).probabilities
    expected = result.expected
    p_error = torch.expm1(expected.max_error + expected.total_error).unsqueeze(-1)
    ds_error = p * (dy.abs() * expected.out_error).sum(-1, keepdim=True) + exact.ds.abs() * p_error
    group = case.heads // case.kv_heads

    def over_group(t: Tensor) -> Tensor:
        return t.unflatten(1, (case.kv_heads, group)).sum(dim=2)

    eps = torch.finfo(case.dtype).eps
    k_n = k.repeat_interleave(group, dim=1)
    dq_parts = [case.factor * d @ t for d, t in zip(exact.ds.split(sizes, -1), k_n.split(sizes, 2), strict=True)]
    dq_error = abs(case.factor) * ds_error @ k_n.abs() + eps * sum(t.abs() for t in dq_parts)
    dk_error = abs(case.factor) * over_group(ds_error.transpose(-1, -2) @ q.abs())
    dv_error = over_group((p * p_error).transpose(-1, -2) @ dy.abs())
    rounding = 1 + eps
    tiny = len(sizes) * torch.finfo(case.dtype).smallest_normal * eps
    for name, actual, wanted, limit, more in zip(
        ("dq", "dk", "dv"), case.bnsd(dq, dk, dv), exact[:3], bound[3:6], (dq_error, dk_error, dv_error), strict=True
    ):
        within(name, actual, wanted, limit + more * rounding + tiny)


def row(out, maximum, total, dtype=torch.float32):
    """One row of one head with an output of two numbers, SBH."""
    stat = (torch.full((1, 1, 1, 8), float(x)) for x in (maximum, total))
    return torch.full((1, 1, 2), float(out), dtype=dtype), *stat


NO_KEYS, SAW_NONE, SOME = (0, 0, 0), (0, -FLT_MAX, FLT_MAX), (0.3, -95.0, 1.7)


@pytest.mark.parametrize(
    ("one", "other", "result"),
    [
        (SAW_NONE, SOME, SOME),
        (NO_KEYS, SOME, SOME),
        (SAW_NONE, SAW_NONE, SAW_NONE),
        (NO_KEYS, NO_KEYS, NO_KEYS),
        (NO_KEYS, SAW_NONE, SAW_NONE),
    ],
)
def test_a_part_without_keys_leaves_the_other_exactly(one, other, result):
    """SOME has a maximum so low that exp(-95 - 0) is less than the smallest normal number: a 0 must not count."""
    for parts in ((one, other), (other, one)):
        merge = npu_ring_attention_update(*row(*parts[0]), *row(*parts[1]))
        for actual, expected in zip(merge, row(*result), strict=True):
            assert torch.equal(actual, expected)


def test_a_vanishing_part_changes_nothing():
    for actual, expected in zip(npu_ring_attention_update(*row(5, -300, 2), *row(*SOME)), row(*SOME), strict=True):
        assert torch.equal(actual, expected)


def test_nan_and_infinity_are_not_hidden():
    out = npu_ring_attention_update(*row(torch.nan, torch.nan, torch.nan), *row(*SOME))
    assert all(t.isnan().all() for t in out)


def test_equal_parts_of_all_lanes_halve():
    out, softmax_max, softmax_sum = npu_ring_attention_update(*row(1, 2, 3), *row(2, 2, 3))
    assert (out == 1.5).all()
    assert (softmax_max == 2).all()
    assert (softmax_sum == 6).all()


def test_an_empty_batch_merges_to_an_empty_one():
    out, stat = torch.empty(4, 0, 6), torch.empty(0, 2, 4, 8)
    assert [t.shape for t in npu_ring_attention_update(out, stat, stat, out, stat, stat)] == [
        out.shape, stat.shape, stat.shape,
    ]  # fmt: skip


def test_differentiating_the_merge_is_refused():
    """The statistics carry no gradient, so that one through attn_out alone would be wrong without a word."""
    query, key, value = (torch.randn(6, 1, 8, requires_grad=True) for _ in range(3))
    parts = [flash_attention_score(query, k, v, 2, "SBH")[:3] for k, v in ((key[:3], value[:3]), (key[3:], value[3:]))]
    out, softmax_max, softmax_sum = npu_ring_attention_update(*parts[0], *parts[1])
    assert not softmax_max.requires_grad
    assert not softmax_sum.requires_grad
    with pytest.raises(NotImplementedError, match="npu_ring_attention_update has no gradient"):
        out.sum().backward()


def packed_row_order(lengths: list[int], heads: int, tnd: Tensor) -> Tensor:
    """[T, N, 8] written as one block [N, S_b, 8] per element; rows after the last element are a block too."""
    lengths = [*lengths, tnd.shape[0] - sum(lengths)]
    blocks = [block.transpose(0, 1).reshape(-1, heads, 8) for block in tnd.split(lengths)]
    return torch.cat(blocks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lengths", [[5], [2, 3], [0, 4, 0, 0, 1], [1, 1, 2]])
def test_packed_statistics_in_both_orders_merge_alike(lengths, dtype):
    """Against SBH with one batch element, where no row moves; T is 5, so [1, 1, 2] leaves one after the end."""
    generator = torch.Generator().manual_seed(4)
    outs = [torch.randn(5, 3, 4, generator=generator).to(dtype) for _ in range(2)]
    stats = [torch.rand(5, 3, 1, generator=generator).expand(5, 3, 8) + 1 for _ in range(4)]
    parts = (outs[0], *stats[:2], outs[1], *stats[2:])
    starts = torch.tensor([0, *lengths]).cumsum(0)
    expected = npu_ring_attention_update(
        *(t.reshape(5, 1, 12) if t.shape[2] == 4 else t.permute(1, 0, 2).unsqueeze(0) for t in parts)
    )
    expected = [expected[0].view(5, 3, 4), *(t[0].transpose(0, 1) for t in expected[1:])]
    tnd = npu_ring_attention_update(*parts, actual_seq_qlen=starts, input_layout="TND", input_softmax_layout="TND")
    blocks = [t if t.shape[2] == 4 else packed_row_order(lengths, 3, t) for t in parts]
    for order in ("", "SBH"):
        out, *merged_stats = npu_ring_attention_update(
            *blocks, actual_seq_qlen=starts, input_layout="TND", input_softmax_layout=order
        )
        assert torch.equal(out, expected[0])
        for actual, one in zip(merged_stats, expected[1:], strict=True):
            assert torch.equal(actual, packed_row_order(lengths, 3, one))
    for actual, one in zip(tnd, expected, strict=True):
        assert torch.equal(actual, one)
        assert actual.is_contiguous()


def test_packed_parts_merge_to_the_whole_in_both_orders():
    """Causal from the bottom right; part 0 holds each element's first keys, none for the last one, part 1 the rest."""
    generator = torch.Generator().manual_seed(6)
    lengths, first, scale = [70, 5, 9], [70, 3, 0], 0.2
    ends = torch.tensor(lengths).cumsum(0).tolist()
    first_ends = torch.tensor(first).cumsum(0).tolist()
    query = torch.randn(ends[-1], 4, 16, generator=generator).bfloat16()
    own = [torch.randn(ends[-1], 2, dim, generator=generator).bfloat16() for dim in (16, 8)]
    before = [torch.randn(first_ends[-1], 2, dim, generator=generator).bfloat16() for dim in (16, 8)]
    causal = {"atten_mask": compressed_atten_mask(3), "sparse_mode": 3, "actual_seq_kvlen": ends}
    starts = torch.tensor([0, *ends])
    results = []
    for order in ("", "TND"):
        common = {"scale": scale, "actual_seq_qlen": ends, "softmax_layout": order}
        parts = [
            npu_fusion_attention(query, *before, 4, "TND", actual_seq_kvlen=first_ends, **common)[:3],
            npu_fusion_attention(query, *own, 4, "TND", **causal, **common)[:3],
        ]
        results.append(
            npu_ring_attention_update(
                *parts[0], *parts[1], actual_seq_qlen=starts, input_layout="TND", input_softmax_layout=order
            )
        )
    blocks, tnd = results
    assert torch.equal(blocks[0], tnd[0])
    for one, other in zip(blocks[1:], tnd[1:], strict=True):
        assert torch.equal(one, packed_row_order(lengths, 4, other))

    def as_bnsd(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, 1).unsqueeze(0)

    rows = zip(query.split(lengths), *(t.split(lengths) for t in (*own, *tnd)), strict=True)
    earlier = zip(*(t.split(first) for t in before), strict=True)
    for (q, k, v, *actual), (k0, v0) in zip(rows, earlier, strict=True):
        q, k, v, k0, v0 = (as_bnsd(t) for t in (q, k, v, k0, v0))
        shape = (1, 4, q.shape[2])
        expected = part_of(q, k, v, scale, torch.ones(*shape, k.shape[2], dtype=torch.bool).triu(1))
        if k0.shape[2]:
            open_part = part_of(q, k0, v0, scale, torch.zeros(*shape, k0.shape[2], dtype=torch.bool))
            expected = merged(open_part, expected, query.dtype)
        check_merge(tuple(as_bnsd(t) for t in actual), expected)


def packed():
    return [torch.ones(5, 2, 4), *[torch.ones(5, 2, 8)] * 2] * 2


@pytest.mark.parametrize(
    ("index", "tensor", "arguments", "message"),
    [
        (0, torch.ones(5, 2, 4), {"input_layout": "BSH"}, r"input_layout='BSH' is not one of SBH, TND \[161002\]"),
        (0, torch.ones(5, 2, 4), {"input_softmax_layout": "NTD"}, r"input_softmax_layout='NTD' is not one of.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": None}, r"actual_seq_qlen is None, .* \[161001\]"),
        (0, torch.ones(5, 8), {}, r"prev_attn_out \[5, 8\] float32 is not of rank 3.*161002"),
        (0, torch.ones(5, 2, 4).double(), {}, r"prev_attn_out \[5, 2, 4\] float64 is not of rank 3.*161002"),
        (3, torch.ones(5, 2, 3), {}, r"cur_attn_out \[5, 2, 3\] float32 is not like prev_attn_out \[5, 2, 4\].*161002"),
        (3, torch.ones(5, 2, 4).half(), {}, r"cur_attn_out \[5, 2, 4\] float16 is not like.*161002"),
        (1, torch.ones(5, 2, 1), {}, r"prev_softmax_max \[5, 2, 1\] float32 is not float32 \[T, N, 8\].*161002"),
        (2, torch.ones(5, 2, 8).half(), {}, r"prev_softmax_sum \[5, 2, 8\] float16 is not float32.*161002"),
        (4, torch.ones(2, 5, 8), {}, r"cur_softmax_max \[2, 5, 8\].*161002"),
        (5, torch.ones(1, 2, 5, 8), {}, r"cur_softmax_sum \[1, 2, 5, 8\].*161002"),
        (1, torch.ones(5, 2, 8), {"input_layout": "SBH"}, r"prev_softmax_max \[5, 2, 8\].*\[B, N, S, 8\].*161002"),
        (1, torch.ones(2, 3, 5, 8), {"input_layout": "SBH"}, r"N=3 of prev_softmax_max does not divide H.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": torch.tensor([[0, 5]])}, r"qlen \[1, 2\] int64 is not.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": torch.tensor([0.0, 5.0])}, r"float32 is not int64.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": torch.tensor([2, 5])}, r"=\[2, 5\] does not.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": torch.tensor([0, 3, 2])}, r"=\[0, 3, 2\] does not.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": torch.tensor([0, 6])}, r"=\[0, 6\] .* at most T=5.*161002"),
        (0, torch.ones(5, 2, 4), {"actual_seq_qlen": torch.tensor([], dtype=torch.int64)}, r"=\[\] does not.*161002"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_by_name(index, tensor, arguments, message):
    parts = packed()
    parts[index] = tensor
    with pytest.raises(ValueError, match=message):
        npu_ring_attention_update(
            *parts, **{"input_layout": "TND", "actual_seq_qlen": torch.tensor([0, 2, 5]), **arguments}
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_documented_example_of_torch_npu(dtype):
    """Its shapes, against its formula in float64; each factor rounds a few times, and the result once to dtype."""
    generator = torch.Generator().manual_seed(0)
    out = [torch.randn(4, 2, 32, generator=generator).to(dtype) for _ in range(2)]
    stats = [torch.rand(2, 2, 4, 1, generator=generator).repeat(1, 1, 1, 8) for _ in range(4)]
    actual = npu_ring_attention_update(out[0], *stats[:2], out[1], *stats[2:])
    m1, l1, m2, l2 = (t.double() for t in stats)
    maximum = torch.maximum(m1, m2)
    weights = [l1 * torch.exp(m1 - maximum), l2 * torch.exp(m2 - maximum)]
    total = weights[0] + weights[1]
    terms = [to_bnsd(o.double(), "SBH", 2) * (w / total)[..., :1] for o, w in zip(out, weights, strict=True)]
    magnitude = terms[0].abs() + terms[1].abs()
    factor = 2 * (_EXP + 3 * _U) + 4 * _U  # weight and total, each: difference, exp, product, sum; quotient and result
    within("attn_out", to_bnsd(actual[0], "SBH", 2), sum(terms), (factor + torch.finfo(dtype).eps) * magnitude)
    assert torch.equal(actual[1], torch.maximum(stats[0], stats[2]))
    within("softmax_sum", actual[2], total, factor * total)
