"""flash_attention_score and its gradient against the dense float64 reference, over the attribute space."""

import pytest
import torch
from hypothesis import given

from ascendspeed.ops import compressed_atten_mask, reference
from ascendspeed.ops.layout import to_bnsd
from tests.support.bounds import bounds, within
from tests.support.cases import LAYOUTS, Case, cases
from tests.support.operator import flash_attention_score, has_dpse

FLT_MAX = torch.finfo(torch.float32).max


def run(case: Case):
    """Outputs and gradients of the operator; the gradients have the shapes of the inputs."""
    query, key, value, dy = case.tensors()
    inputs = [t.requires_grad_() for t in (query, key, value)]
    attributes = case.attributes()
    if has_dpse(case.pse, case.pse_type):
        inputs.append(attributes["pse"].requires_grad_())
    if attributes["sink"] is not None:
        inputs.append(attributes["sink"].requires_grad_())
    output = flash_attention_score(*inputs[:3], case.heads, case.layout, **attributes)
    gradients = torch.autograd.grad(output.attention_out, inputs, dy)
    return output, gradients, dy


def check(case: Case, run=run) -> None:
    """Forward and backward within the bounds; `run` gives what is checked."""
    output, gradients, dy = run(case)
    q, k, v = case.bnsd(*case.tensors()[:3])
    dy = _as_bnsd(case, dy)
    problem = case.reference_arguments()
    exact = reference.attention(q, k, v, **problem)
    exact_gradients = reference.attention_grad(q, k, v, dy, **problem, forward=exact)
    pse_shape = tuple(case.pse_tensor().shape) if has_dpse(case.pse, case.pse_type) else None
    bound = bounds(q, k, v, dy, **problem, pse_shape=pse_shape, exact=exact, gradients=exact_gradients)

    assert output.attention_out.dtype == case.dtype
    assert output.attention_out.is_contiguous()
    assert output.softmax_max.shape == output.softmax_sum.shape == (case.batch, case.heads, case.q_len, 8)
    within("attention_out", _as_bnsd(case, output.attention_out), exact.attention_out, bound.attention_out)
    for name in ("softmax_max", "softmax_sum"):
        lanes = getattr(output, name)
        assert (lanes == lanes[..., :1]).all(), f"{name}: the 8 lanes differ"
        within(name, lanes[..., 0], getattr(exact, name), getattr(bound, name))
    others = list(gradients[3:])
    if pse_shape is not None:
        by = case.factor if case.pse_type == 1 else 1.0
        within("dpse", others.pop(0), (by * exact_gradients.ds).sum_to_size(pse_shape), bound.dpse)
    if case.sink:
        within("dsink", others.pop(0), exact_gradients.dsink, bound.dsink)
    assert not others
    wanted = exact_gradients[:3]
    for name, actual, expected in zip(("dq", "dk", "dv"), case.bnsd(*gradients[:3]), wanted, strict=True):
        assert actual.dtype == case.dtype
        within(name, actual, expected, getattr(bound, name))


def _as_bnsd(case: Case, tensor: torch.Tensor) -> torch.Tensor:
    return to_bnsd(tensor, case.layout, case.heads)


@given(cases())
def test_is_within_the_derived_bound_of_the_reference(case):
    check(case)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 15, 16, 17, 31, 33, 100, 512, 767, 768])
def test_every_kind_of_head_size(dim):
    check(Case(1, 2, 1, 75, 99, dim, max(1, dim - 1), masked=True, sparse_mode=3, seed=dim))


@pytest.mark.parametrize("q_len", [1, 5, 73, 200])
@pytest.mark.parametrize("kv_len", [1, 7, 97, 250])
@pytest.mark.parametrize("mode", [2, 3, 4, 6])
def test_unequal_lengths_in_the_compressed_modes(q_len, kv_len, mode):
    prefix = (max(0, kv_len - q_len),) if mode == 6 else None
    band = {"pre_tockens": 3, "next_tockens": 2} if mode == 4 else {}
    check(Case(1, 1, 1, q_len, kv_len, 8, 8, masked=True, sparse_mode=mode, prefix=prefix, **band))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_samples_than_rows(layout):
    """In SBH the first dimension is the rows, but that of the statistics is the samples."""
    check(Case(3, 2, 1, 2, 5, 4, 4, layout=layout))


def test_rows_that_see_no_key_are_zero_and_say_so():
    case = Case(1, 1, 1, 5, 3, 4, 4, masked=True, sparse_mode=3)  # rows 0 and 1 lie above the diagonal
    output, gradients, _ = run(case)
    assert (output.attention_out[0, 0, :2] == 0).all()
    assert (output.softmax_max[0, 0, :2] == -FLT_MAX).all()
    assert (output.softmax_sum[0, 0, :2] == FLT_MAX).all()
    assert (gradients[0][0, 0, :2] == 0).all()
    assert (output.attention_out[0, 0, 2:] != 0).all()


def test_what_float16_cannot_hold_becomes_infinity():
    case = Case(
        1,
        1,
        1,
        73,
        4,
        65,
        65,
        dtype=torch.float16,
        layout="SBH",
        memory="expanded",
        scale=1.0,
        dropout="mask",
        keep_prob=2e-4,
    )
    _, (_, dk, _), _ = run(case)
    assert dk.isinf().any()
    check(case)


def test_a_sample_masked_out_entirely_gets_zero_gradients():
    query, key, value = (torch.randn(2, 1, 130, 8, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, 1, 130, 130, dtype=torch.bool)
    mask[1] = True
    out = flash_attention_score(query, key, value, 1, "BNSD", atten_mask=mask, sparse_mode=1).attention_out
    out.sum().backward()
    assert (out[1] == 0).all()
    for tensor in (query, key, value):
        assert (tensor.grad[1] == 0).all()
        assert tensor.grad[0].isfinite().all()


@pytest.mark.parametrize("mode", range(1, 7))
def test_without_a_mask_nothing_is_masked_in_any_mode(mode):
    query, key, value = (torch.randn(1, 1, 9, 4) for _ in range(3))
    plain = flash_attention_score(query, key, value, 1, "BNSD")
    with_mode = flash_attention_score(
        query, key, value, 1, "BNSD", sparse_mode=mode, pre_tockens=0, next_tockens=0, prefix=[3]
    )
    assert torch.equal(plain.attention_out, with_mode.attention_out)


def test_mode_0_applies_mask_and_band_together():
    case = Case(1, 1, 1, 40, 40, 4, 4, masked=True, sparse_mode=0, pre_tockens=5, next_tockens=-2)
    check(case)
    visible = ~case.excluded()[0, 0]
    assert visible.any()
    assert not visible[0].any()


def test_layouts_are_case_insensitive_and_agree():
    case = Case(2, 4, 2, 33, 50, 16, 8, masked=True, sparse_mode=3)
    results = []
    for layout in LAYOUTS:
        this = Case(**{**case.__dict__, "layout": layout})
        query, key, value, _ = this.tensors()
        out = flash_attention_score(query, key, value, 4, layout.lower(), **this.attributes()).attention_out
        results.append(_as_bnsd(this, out))
    for other in results[1:]:
        assert torch.equal(results[0], other)


@pytest.mark.parametrize("shape", [(0, 2, 5, 7, 4), (2, 2, 0, 7, 4)])
def test_an_empty_output_is_accepted(shape):
    batch, heads, q_len, kv_len, dim = shape
    query = torch.randn(batch, heads, q_len, dim, requires_grad=True)
    key, value = (torch.randn(batch, heads, kv_len, dim, requires_grad=True) for _ in range(2))
    output = flash_attention_score(query, key, value, heads, "BNSD")
    assert output.attention_out.shape == (batch, heads, q_len, dim)
    output.attention_out.sum().backward()
    assert (key.grad == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_keys_give_zeros(layout):
    case = Case(2, 2, 2, 5, 0, 4, 4, layout=layout)
    output, gradients, _ = run(case)
    for tensor in (*output[:3], *gradients):
        assert (tensor == 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_the_rows_that_see_them(value):
    query, key, values = (torch.randn(1, 1, 150, 8) for _ in range(3))
    key[0, 0, 100, 0] = value
    query = query.abs()  # so that an infinite key gives a score of +inf
    output = flash_attention_score(query, key, values, 1, "BNSD", atten_mask=compressed_atten_mask(2), sparse_mode=2)
    assert output.attention_out[0, 0, :100].isfinite().all()
    assert output.attention_out[0, 0, 100:].isnan().all()
    maximum = output.softmax_max[0, 0, 100:]
    assert maximum.isnan().all() if value != value else (maximum == value).all()


def test_reserved_output_is_empty():
    query = torch.randn(1, 1, 2, 2)
    assert flash_attention_score(query, query, query, 1, "BNSD").softmax_out.numel() == 0


@pytest.mark.parametrize(
    "arguments", [{"inner_precise": 1}, {"inner_precise": 2}, {"gen_mask_parallel": False}, {"sync": True}], ids=str
)
def test_what_only_steers_a_device_changes_no_number(arguments):
    case = Case(
        2, 4, 2, 80, 70, 16, 8, masked=True, sparse_mode=3, dropout="seed", keep_prob=0.7
    )  # rows 0-9 see no key
    results = []
    for more in ({}, arguments):
        query, key, value, dy = case.tensors()
        inputs = [t.requires_grad_() for t in (query, key, value)]
        output = flash_attention_score(*inputs, case.heads, case.layout, **case.attributes() | more)
        results.append([*output, *torch.autograd.grad(output.attention_out, inputs, dy)])
    for plain, steered in zip(*results, strict=True):
        assert torch.equal(plain, steered)
