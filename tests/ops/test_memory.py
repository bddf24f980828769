"""Inputs whose elements share memory, problems without a batch in every layout, and memory before it is written."""

import pytest
import torch
from torch import Tensor

from ascendspeed.ops import compressed_atten_mask
from tests.support.cases import DTYPES, LAYOUTS, MEMORY, arrange
from tests.support.device import DEVICE
from tests.support.operator import flash_attention_score, flash_attention_score_grad, to_device

HEADS, LENGTH, DIM = 2, 150, 8
# [B, S, H] etc. of a batch of 3; the strides of a window that moves on by less than its own length.
SHAPES = {
    "BSH": (3, LENGTH, HEADS * DIM),
    "SBH": (LENGTH, 3, HEADS * DIM),
    "BSND": (3, LENGTH, HEADS, DIM),
    "BNSD": (3, HEADS, LENGTH, DIM),
    "TND": (LENGTH, HEADS, DIM),
}
LISTS = {"TND": {"actual_seq_qlen": [40, LENGTH], "actual_seq_kvlen": [40, LENGTH]}}


def overlapping(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Every dimension steps by less than the one inside it is long, so that neighbours share most elements."""
    strides = [1]
    for _ in shape[1:]:
        strides.insert(0, strides[0] * 3)
    span = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    memory = torch.randn(span, generator=torch.Generator().manual_seed(seed)).to(dtype)
    view = memory.as_strided(shape, strides)
    assert view.numel() > memory.numel()
    return view


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_that_nobody_wrote_is_nan(dtype):
    """What the tests rely on to see that an output was left out."""
    for empty in (
        torch.empty(9, dtype=dtype, device=DEVICE),
        torch.empty_strided((3,), (2,), dtype=dtype, device=DEVICE),
    ):
        assert empty.isnan().all()


@pytest.mark.parametrize("memory", MEMORY)
def test_tensors_reach_the_device_with_the_strides_they_have(memory):
    tensor = arrange(torch.arange(30).view(2, 3, 5), memory)
    part = tensor[:, 1:]
    moved = to_device(part)
    assert moved.device.type == DEVICE
    assert (moved.stride(), moved.storage_offset()) == (part.stride(), part.storage_offset())
    assert torch.equal(moved.cpu(), part)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", SHAPES)
def test_inputs_that_share_memory_give_what_copies_of_them_give(layout, dtype):
    inputs = [overlapping(SHAPES[layout], dtype, seed) for seed in range(3)]
    dy = torch.randn(SHAPES[layout], generator=torch.Generator().manual_seed(3)).to(dtype)
    results = []
    for tensors in (inputs, [t.contiguous() for t in inputs]):
        leaves = [t.detach().requires_grad_() for t in tensors]
        output = flash_attention_score(
            *leaves, HEADS, layout, atten_mask=compressed_atten_mask(3), sparse_mode=3, scale=0.1,
            **LISTS.get(layout, {}),
        )  # fmt: skip
        results.append([*output[:3], *torch.autograd.grad(output.attention_out, leaves, dy)])
    for shared, copied in zip(*results, strict=True):
        assert torch.equal(shared, copied)


@pytest.mark.parametrize("memory", ["permuted", "sliced"])
@pytest.mark.parametrize(("layout", "softmax_layout"), [*((layout, "") for layout in SHAPES), ("TND", "TND")])
def test_what_the_backward_reads_of_the_forward_may_have_any_strides(layout, softmax_layout, memory):
    """softmax_max, softmax_sum, attention_in, dy and the sink, each by itself and all at once."""
    generator = torch.Generator().manual_seed(4)
    tensors = [torch.randn(SHAPES[layout], generator=generator).bfloat16() for _ in range(4)]
    query, key, value, dy = tensors
    attributes = {"head_num": HEADS, "input_layout": layout, "scale": 0.3, "softmax_layout": softmax_layout}
    attributes |= {"atten_mask": compressed_atten_mask(2), "sparse_mode": 2, **LISTS.get(layout, {})}
    sink = torch.randn(HEADS, generator=generator)
    output = flash_attention_score(query, key, value, sink=sink, **attributes)
    read = {
        "softmax_max": output.softmax_max,
        "softmax_sum": output.softmax_sum,
        "attention_in": output.attention_out,
        "dy": dy,
        "sink": sink,
    }

    def gradients(**changes):
        return flash_attention_score_grad(query, key, value, softmax_in=None, **attributes, **(read | changes))[:5]

    arranged = {name: arrange(tensor, memory) for name, tensor in read.items()}
    assert all(t.ndim == 1 or not t.is_contiguous() for t in arranged.values())
    expected = gradients()
    for changes in (*({name: tensor} for name, tensor in arranged.items()), arranged):
        for one, other in zip(gradients(**changes), expected, strict=True):
            assert torch.equal(one, other), list(changes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
def test_an_empty_batch_gives_empty_results(layout, masked):
    shape = list(SHAPES[layout])
    shape[layout.index("B")] = 0
    inputs = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    mask = {"atten_mask": compressed_atten_mask(2), "sparse_mode": 2} if masked else {}
    output = flash_attention_score(*inputs, HEADS, layout, **mask)
    assert output.attention_out.shape == tuple(shape)
    assert output.softmax_max.shape == output.softmax_sum.shape == (0, HEADS, LENGTH, 8)
    for gradient, tensor in zip(torch.autograd.grad(output.attention_out.sum(), inputs), inputs, strict=True):
        assert gradient.shape == tensor.shape


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("softmax_layout", ["", "TND"])
def test_a_packed_batch_without_queries_gives_empty_results_and_zero_gradients(batch, softmax_layout):
    query = torch.randn(0, HEADS, DIM, requires_grad=True)
    key, value = (torch.randn(7, HEADS, DIM, requires_grad=True) for _ in range(2))
    output = flash_attention_score(
        query, key, value, HEADS, "TND", actual_seq_qlen=[0] * batch, actual_seq_kvlen=[7] * batch,
        softmax_layout=softmax_layout,
    )  # fmt: skip
    assert output.attention_out.shape == (0, HEADS, DIM)
    assert output.softmax_max.shape == output.softmax_sum.shape == (0, HEADS, 8)
    gradients = torch.autograd.grad(output.attention_out.sum(), (query, key, value))
    for gradient, tensor in zip(gradients, (query, key, value), strict=True):
        assert gradient.shape == tensor.shape
        assert (gradient == 0).all()
