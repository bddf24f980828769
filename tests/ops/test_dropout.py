"""Dropout: the generated mask, its bits, its seeds, and that the backward meets the forward's mask."""

import math
import re
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.checkpoint import checkpoint

from ascendspeed import ops
from ascendspeed.ops import FlashAttention, reference
from tests.support.cases import Case, philox
from tests.support.device import DEVICE
from tests.support.operator import (
    dropout_gen_mask,
    flash_attention_score,
    npu_flash_attention,
    opcheck,
    rng_state,
    to_device,
)

SHAPE = (2, 3, 75, 101)  # B, N, Sq, Skv: no row begins on a byte


def tensors(dtype=torch.float32):
    batch, heads, q_len, kv_len = SHAPE
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(batch, heads, length, 8, generator=generator).to(dtype).requires_grad_()
        for length in (q_len, kv_len, kv_len)
    ]


def bits(mask, count):
    return reference.kept(mask, 1, 1, 1, count).flatten()


@pytest.mark.parametrize("seed", [1, 2**40 + 3, 2**62, -5])
@pytest.mark.parametrize("offset", [0, 7, 2**33])
def test_words_are_those_of_philox(seed, offset):
    """Against an independent statement of Philox4x32-10 in Python integers."""
    words = [word for counter in range(20) for word in philox(counter, offset % 2**64, seed % 2**64)]
    keep = bits(dropout_gen_mask(torch.empty(0), 80, 0.3, seed, offset), 80)
    assert keep.tolist() == [word < math.ceil(0.3 * 2**32) for word in words]


def test_philox_matches_the_published_vectors():
    """kat_vectors of Random123: philox4x32 10 rounds, counter and key all zeros, then all ones."""
    assert philox(0, 0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(2**64 - 1, 2**64 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("numel", [0, 1, 127, 128, 129, 100_001])
def test_mask_has_whole_blocks_of_128_bits_and_zeros_after_the_end(numel):
    mask = dropout_gen_mask(torch.empty(0), numel, 1.0, 3)
    assert mask.dtype == torch.uint8
    assert mask.shape == (math.ceil(numel / 128) * 16,)
    every = bits(mask, mask.numel() * 8)
    assert every[:numel].all()
    assert not every[numel:].any()


@pytest.mark.parametrize("keep_prob", [0.1, 0.5, 0.9])
def test_share_of_kept_bits_is_the_probability(keep_prob):
    """Within 5 standard deviations of a binomial; neighbours are uncorrelated to the same degree."""
    count = 1_000_000
    keep = bits(dropout_gen_mask(torch.empty(0), count, keep_prob, 11, 2), count).double()
    deviation = math.sqrt(keep_prob * (1 - keep_prob) / count)
    assert abs(keep.mean().item() - keep_prob) < 5 * deviation
    for lag in (1, 4, 8, 32):
        centred = keep - keep_prob
        correlation = (centred[lag:] * centred[:-lag]).mean().item() / (keep_prob * (1 - keep_prob))
        assert abs(correlation) < 5 / math.sqrt(count)


def test_generated_and_given_mask_give_the_same_bits_forward_and_backward():
    inputs = tensors()
    mask = dropout_gen_mask(inputs[0], math.prod(SHAPE), 0.8, 99, 4)
    results = []
    for arguments in ({"seed": 99, "offset": 4}, {"drop_mask": mask}):
        out = flash_attention_score(*inputs, 3, "BNSD", scale=0.3, keep_prob=0.8, **arguments).attention_out
        results.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_seed_is_drawn_from_torchs_generator_when_none_is_given():
    inputs = tensors()

    def attend():
        return flash_attention_score(*inputs, 3, "BNSD", keep_prob=0.7).attention_out

    torch.manual_seed(1)
    first, second = attend(), attend()
    torch.manual_seed(1)
    assert torch.equal(first, attend())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_meets_the_same_mask(reentrant):
    inputs = [t.detach().requires_grad_() for t in to_device(tensors())]

    def attend(*t):
        return ops.flash_attention_score(*t, 3, "BNSD", keep_prob=0.7).attention_out.square()

    gradients = []
    for run in (attend, lambda *t: checkpoint(attend, *t, use_reentrant=reentrant)):
        torch.manual_seed(2)
        for tensor in inputs:
            tensor.grad = None
        run(*inputs).sum().backward()
        gradients.append([t.grad for t in inputs])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_without_dropout_no_random_number_is_drawn():
    torch.manual_seed(3)
    before = rng_state()
    flash_attention_score(*tensors(), 3, "BNSD")
    assert torch.equal(before, rng_state())


def test_softmax_sum_is_that_before_dropout():
    inputs = tensors()
    plain = flash_attention_score(*inputs, 3, "BNSD")
    dropped = flash_attention_score(*inputs, 3, "BNSD", keep_prob=0.5, seed=1)
    assert torch.equal(plain.softmax_sum, dropped.softmax_sum)
    assert not torch.equal(plain.attention_out, dropped.attention_out)


def test_mean_over_seeds_is_the_output_without_dropout():
    """400 masks of keep_prob 0.5: the mean is within 5 standard errors of the undropped output, on average over it."""
    query, key, value = (t.detach()[:1, :1] for t in tensors())
    exact = flash_attention_score(query, key, value, 1, "BNSD").attention_out
    samples = torch.stack(
        [
            flash_attention_score(query, key, value, 1, "BNSD", keep_prob=0.5, seed=s).attention_out
            for s in range(1, 401)
        ]
    )
    error = (samples.mean(dim=0) - exact).abs() / (samples.std(dim=0) / math.sqrt(400))
    assert error.mean() < 1.0  # 0.8 for a normal distribution
    assert error.max() < 5.5


def test_keep_prob_0_of_the_first_release_gives_zeros():
    query, key, value = (t.detach()[:, 0].requires_grad_() for t in tensors())
    (out,) = npu_flash_attention(query, key, value, 1, "BSH", keep_prob=0.0)
    out.sum().backward()
    for tensor in (out, query.grad, key.grad, value.grad):
        assert (tensor == 0).all()


def test_the_module_drops_out_and_its_backward_meets_the_same_mask():
    case = Case(2, 1, 1, 30, 30, 8, 8, layout="BSH")
    small = [t[:1, :5].double().requires_grad_() for t in case.tensors()[:3]]

    def attend(*t):
        torch.manual_seed(4)  # the same seed for each evaluation of the finite differences
        return FlashAttention()(*(to_device(x.float()) for x in t), 1, "BSH", keep_prob=0.6).double().cpu()

    assert torch.autograd.gradcheck(attend, small, eps=1e-2, atol=1e-3, rtol=1e-3)


def test_opcheck_of_the_generator():
    opcheck(torch.ops.ascendspeed.dropout_gen_mask.default, (torch.empty(0), 1000, 0.5, 3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"), [((-1, 0.5), "numel=-1"), ((8, 0.0), "keep_prob=0"), ((8, 1.1), "keep_prob=1.1")]
)
def test_generator_refuses_bad_input(arguments, message):
    with pytest.raises(ValueError, match=rf"{message}.*161002"):
        dropout_gen_mask(torch.empty(0), *arguments, seed=1)


@pytest.mark.parametrize(
    ("numel", "keep_prob", "message"),
    [
        (-1, 0.5, "numel=-1 must not be negative [161002]"),
        (9, -0.5, "keep_prob=-0.5 is outside (0, 1] [161002]"),
        (9, float("nan"), "keep_prob=nan is outside (0, 1] [161002]"),
        (9, 1e-39, "keep_prob=1e-39 is too small: its inverse is not finite in float32 [161002]"),
        (9, 0.0, "keep_prob=0 is outside (0, 1] [161002]"),
        (9, 1.5, "keep_prob=1.5 is outside (0, 1] [161002]"),
    ],
)
@pytest.mark.parametrize("device", [DEVICE, "meta"])
@pytest.mark.parametrize("fake", [False, True])
def test_a_mask_that_cannot_be_is_refused(numel, keep_prob, message, device, fake):
    with FakeTensorMode() if fake else nullcontext(), pytest.raises(ValueError, match=re.escape(message)):
        ops.dropout_gen_mask(torch.empty(0, device=device), numel, keep_prob, 1)


@pytest.mark.parametrize("numel", [0, 1, 128, 129, 100_001])
def test_a_fake_mask_is_like_the_real_one(numel):
    real = ops.dropout_gen_mask(torch.empty(0, device=DEVICE), numel, 0.5, 3)
    with FakeTensorMode():
        fake = ops.dropout_gen_mask(torch.empty(0, device=DEVICE), numel, 0.5, 3)
    assert isinstance(fake, FakeTensor)
    assert (fake.shape, fake.dtype, fake.device) == (real.shape, real.dtype, real.device)


def test_a_call_of_shapes_alone_needs_no_seed():
    query = torch.empty(2, 3, 40, 8, device="meta")
    assert flash_attention_score(query, query, query, 3, "BNSD", keep_prob=0.5).attention_out.shape == query.shape
