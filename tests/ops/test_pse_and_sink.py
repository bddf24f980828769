"""Position shift and attention sinks: the documented forms, the compressed form, gradients, and what has none."""

import pytest
import torch

from ascendspeed.ops import compressed_atten_mask, reference
from tests.ops.test_flash_attention_score import check, within
from tests.support.bounds import bounds
from tests.support.cases import Case
from tests.support.device import DEVICE, cpu_only
from tests.support.operator import flash_attention_score


@pytest.mark.parametrize("pse_type", [0, 1])
@pytest.mark.parametrize("shape", ["BNSS", "1NSS", "BN1S", "1N1S"])
def test_every_shape_of_a_tensor_and_its_gradient(shape, pse_type):
    check(Case(2, 4, 2, 80, 110, 16, 8, pse=shape, pse_type=pse_type, masked=True, sparse_mode=3, scale=0.4))


@pytest.mark.parametrize("pse_type", [2, 3])
@pytest.mark.parametrize("shape", ["N", "BN"])
@pytest.mark.parametrize("starts", [None, (0, 0), (3, 40), (200, -7)])
def test_slopes_and_start_indices(shape, pse_type, starts):
    check(Case(2, 4, 2, 100, 100, 16, 8, pse=shape, pse_type=pse_type, starts=starts, masked=True, sparse_mode=2))


def test_start_indices_count_only_when_both_are_given():
    query, slopes = torch.randn(1, 2, 30, 8), torch.tensor([0.5, 0.25])

    def attend(**starts):
        return flash_attention_score(query, query, query, 2, "BNSD", pse=slopes, pse_type=2, **starts).attention_out

    plain = attend()
    for starts in ({"q_start_idx": [9]}, {"kv_start_idx": [9]}, {"q_start_idx": [], "kv_start_idx": [9]}):
        assert torch.equal(attend(**starts), plain)
    assert not torch.equal(attend(q_start_idx=[9, 1], kv_start_idx=[0]), plain)


def toeplitz(heads, q_len, dtype):
    """An ALiBi bias for every query row, and the 1024 last rows that stand for it."""
    distance = torch.arange(q_len).view(-1, 1) - torch.arange(q_len)
    full = -(torch.rand(heads, 1, 1, generator=torch.Generator().manual_seed(1)) * distance / 64).to(dtype)
    return full.unsqueeze(0), full[None, :, -1024:].contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("mode", "q_len"), [(2, 1025), (3, 1300), (0, 2100)])
@pytest.mark.parametrize("pse_type", [0, 1])
def test_1024_rows_stand_for_all(mode, q_len, dtype, pse_type):
    full, compressed = toeplitz(2, q_len, dtype)
    generator = torch.Generator().manual_seed(2)
    tensors = [torch.randn(1, 2, q_len, 4, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    causal = compressed_atten_mask(mode) if mode else torch.ones(q_len, q_len, dtype=torch.bool).triu(1)
    results = []
    for pse in (full, compressed):
        output = flash_attention_score(
            *tensors, 2, "BNSD", pse=pse, pse_type=pse_type, atten_mask=causal, sparse_mode=mode, scale=0.5
        )
        results.append([*output[:3], *torch.autograd.grad(output.attention_out.sum(), tensors)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@cpu_only("the gradient of pse")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("mode", "q_len"), [(2, 1025), (3, 1300), (0, 2100)])
@pytest.mark.parametrize("pse_type", [0, 1])
def test_the_gradient_of_1024_rows_sums_what_they_stand_for(mode, q_len, pse_type, shared):
    """Against the gradient of the whole tensor, summed along the diagonals that the first stored row stands for."""
    batch, heads, scale = 2, 2, 0.5
    full, compressed = toeplitz(heads, q_len, torch.float32)
    full = full.repeat(batch, 1, 1, 1).requires_grad_()
    compressed = compressed.repeat(1 if shared else batch, 1, 1, 1).requires_grad_()
    generator = torch.Generator().manual_seed(2)
    tensors = [torch.randn(batch, heads, q_len, 4, generator=generator) for _ in range(4)]
    causal = compressed_atten_mask(mode) if mode else torch.zeros(q_len, q_len, dtype=torch.bool)
    band = {"next_tockens": 0} if mode == 0 else {}

    def gradient(pse):
        out = flash_attention_score(
            *tensors[:3], heads, "BNSD", pse=pse, pse_type=pse_type, atten_mask=causal, sparse_mode=mode, scale=scale,
            **band,
        ).attention_out  # fmt: skip
        return torch.autograd.grad(out, pse, tensors[3])[0].double()

    whole = gradient(full)
    expected = whole[:, :, -1024:].clone()
    magnitude = expected.abs()
    for row in range(q_len - 1024):  # row i at key j is the first stored row at key j + (Sq - 1024 - i)
        moved = q_len - 1024 - row
        expected[:, :, 0, moved : moved + row + 1] += whole[:, :, row, : row + 1]
        magnitude[:, :, 0, moved : moved + row + 1] += whole[:, :, row, : row + 1].abs()
    expected, magnitude = (t.sum_to_size(compressed.shape) for t in (expected, magnitude))
    # Both sides are float32 sums of the same terms, at most q_len of them in each sample, in other orders.
    allowed = 2 * (batch * q_len + 1) * torch.finfo(torch.float32).eps / 2 * magnitude
    assert ((gradient(compressed) - expected).abs() <= allowed).all()


def test_the_reference_reads_the_compressed_form_alike():
    full, compressed = toeplitz(2, 1100, torch.float32)
    expanded = reference.position_shift(compressed, 1, 1, 2, 1100, 1100)
    below = torch.ones(1100, 1100, dtype=torch.bool).tril()
    assert torch.equal(expanded[..., below], full.double()[..., below])


@pytest.mark.parametrize("device", [DEVICE, "meta"])
def test_slopes_have_no_gradient_and_say_so(device):
    query, slopes = torch.randn(1, 2, 11, 4, device=device), torch.ones(2, requires_grad=True, device=device)
    output = flash_attention_score(query, query, query, 2, "BNSD", pse=slopes, pse_type=2)
    with pytest.raises(NotImplementedError, match="the slopes of pse_type 2 have no gradient"):
        output.attention_out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_sinks_take_probability_and_have_a_gradient(dtype, masked):
    case = Case(
        2, 4, 2, 90, 70, 16, 16, dtype=dtype, sink=True, masked=masked, sparse_mode=3, dropout="seed", keep_prob=0.7
    )
    check(case)


def test_a_row_that_sees_no_key_gives_all_to_the_sink():
    case = Case(1, 2, 2, 5, 3, 4, 4, dtype=torch.bfloat16, sink=True, masked=True, sparse_mode=3)
    query, key, value, _ = case.tensors()
    output = flash_attention_score(query, key, value, 2, "BNSD", **case.attributes())
    assert (output.attention_out[:, :, :2] == 0).all()
    assert torch.equal(output.softmax_max[0, :, 0, 0], case.sink_tensor())
    assert (output.softmax_sum[0, :, :2] == 1).all()


def test_an_empty_sink_counts_as_none():
    query = torch.randn(1, 2, 9, 4)
    plain = flash_attention_score(query, query, query, 2, "BNSD").attention_out
    assert torch.equal(plain, flash_attention_score(query, query, query, 2, "BNSD", sink=torch.empty(0)).attention_out)


def test_a_very_large_sink_leaves_nothing_and_a_very_small_one_changes_nothing():
    query = torch.randn(1, 1, 9, 4).bfloat16()
    plain = flash_attention_score(query, query, query, 1, "BNSD").attention_out
    assert (flash_attention_score(query, query, query, 1, "BNSD", sink=torch.tensor([1e4])).attention_out == 0).all()
    small = flash_attention_score(query, query, query, 1, "BNSD", sink=torch.tensor([-1e4])).attention_out
    assert torch.equal(small, plain)


def test_a_sink_of_minus_infinity_is_none():
    case = Case(1, 2, 2, 80, 70, 8, 8, dtype=torch.bfloat16, masked=True, sparse_mode=3)  # rows 0 to 9 see no key
    query, key, value, dy = case.tensors()
    plain = flash_attention_score(query, key, value, 2, "BNSD", **case.attributes())
    sink = torch.full((2,), -torch.inf, requires_grad=True)
    with_sink = flash_attention_score(query, key, value, 2, "BNSD", **case.attributes() | {"sink": sink})
    for one, other in zip(with_sink[:3], plain[:3], strict=True):
        assert torch.equal(one, other)
    assert (torch.autograd.grad(with_sink.attention_out, sink, dy)[0] == 0).all()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("mode", [1, 3])
def test_a_sink_that_is_no_number_leaves_none_in_its_head(value, mode):
    """In rows of tiles that are computed and of tiles that are not, as in the reference."""
    case = Case(1, 2, 2, 200, 70, 8, 8, dtype=torch.bfloat16, masked=True, sparse_mode=mode, mask_density=0.9)
    query, key, values, _ = case.tensors()
    sink = torch.tensor([value, 0.5])
    found = flash_attention_score(query, key, values, 2, "BNSD", **case.attributes() | {"sink": sink})
    exact = reference.attention(query, key, values, **case.reference_arguments() | {"sink": sink})
    numbers = (found.attention_out, found.softmax_max[..., 0], found.softmax_sum[..., 0])
    for one, other in zip(numbers, exact[:3], strict=True):
        assert torch.equal(one.isfinite(), other.isfinite())


def test_shift_sink_and_dropout_at_once_in_every_layout():
    for layout in ("BSH", "SBH", "BSND", "BNSD"):
        check(
            Case(
                2, 4, 2, 75, 75, 16, 8, dtype=torch.bfloat16, layout=layout, pse="BN", pse_type=3, starts=(5, 2),
                sink=True, dropout="mask", keep_prob=0.5, masked=True, sparse_mode=4, pre_tockens=30, next_tockens=0,
            )
        )  # fmt: skip


def test_the_bound_sees_a_missing_sink():
    """The bound is of use only if the error of leaving the sink out is far above it."""
    case = Case(1, 2, 2, 40, 40, 16, 16, dtype=torch.bfloat16, sink=True)
    query, key, value, dy = case.tensors()
    problem = case.reference_arguments()
    limits = bounds(query, key, value, dy, **problem)
    without = flash_attention_score(query, key, value, 2, "BNSD", scale=case.factor)
    with pytest.raises(AssertionError):
        within("out", without.attention_out, reference.attention(query, key, value, **problem).attention_out, limits[0])
