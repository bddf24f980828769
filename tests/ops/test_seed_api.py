"""FlashAttention, npu_flash_attention, npu_flash_attention_grad: names, defaults, returns of the first AscendSpeed."""

import inspect

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import ascendspeed.ops
from ascendspeed.ops import FlashAttention, compressed_atten_mask
from tests.support.device import DEVICE
from tests.support.operator import flash_attention_score, npu_flash_attention, npu_flash_attention_grad, to_device

FORWARD_NAMES = [
    "query", "key", "value", "head_num", "input_layout", "pse", "padding_mask", "atten_mask", "scale", "keep_prob",
    "pre_tockens", "next_tockens", "gen_mask_parallel", "sync",
]  # fmt: skip
BACKWARD_NAMES = [
    "query", "key", "value", "dy", "head_num", "input_layout", "pse", "padding_mask", "atten_mask", "softmax_max",
    "softmax_sum", "softmax_in", "attention_in", "scale_value", "keep_prob", "pre_tockens", "next_tockens",
    "gen_mask_parallel", "sync",
]  # fmt: skip
DEFAULTS = {
    "pse": None, "padding_mask": None, "atten_mask": None, "softmax_max": None, "softmax_sum": None,
    "softmax_in": None, "attention_in": None, "scale": 1.0, "scale_value": 1.0, "keep_prob": 1.0,
    "pre_tockens": 2147483647, "next_tockens": 2147483647, "gen_mask_parallel": True, "sync": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (npu_flash_attention, FORWARD_NAMES),
        (npu_flash_attention_grad, BACKWARD_NAMES),
        (FlashAttention().forward, FORWARD_NAMES),
    ],
)
def test_signatures_are_spelled_as_in_the_first_release(function, names):
    parameters = inspect.signature(function).parameters
    assert list(parameters) == names
    for name, parameter in parameters.items():
        assert parameter.default == DEFAULTS.get(name, inspect.Parameter.empty)


def tensors(layout="SBH"):
    generator = torch.Generator().manual_seed(3)
    shape = (10, 2, 32) if layout == "SBH" else (2, 10, 32)
    return [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]


def causal():
    return torch.ones(10, 10, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("layout", ["SBH", "BSH", "bsh"])
def test_forward_returns_a_list_of_the_output(layout):
    inputs = tensors(layout.upper())
    result = npu_flash_attention(*inputs, 4, layout, None, None, causal(), 0.25, 1.0, 2147483647, 0, True, False)
    expected = flash_attention_score(*inputs, 4, layout, atten_mask=causal(), scale=0.25, next_tockens=0)
    assert isinstance(result, list)
    assert len(result) == 1
    assert torch.equal(result[0], expected.attention_out)


def test_module_is_differentiable_as_in_the_documentation():
    inputs = tensors()
    query, key, value = (t.detach().requires_grad_() for t in to_device(inputs))
    score = FlashAttention()(query, key, value, 4, "SBH", None, None, to_device(causal()), 0.25)
    score.sum().backward()
    expected = flash_attention_score(*inputs, 4, "SBH", atten_mask=causal(), scale=0.25).attention_out
    assert torch.equal(score.cpu(), expected)
    assert torch.equal(query.grad.cpu(), torch.autograd.grad(expected.sum(), inputs[0])[0])


def test_single_backward_returns_14_entries_in_argument_order():
    inputs = tensors()
    output = flash_attention_score(*inputs, 4, "SBH", atten_mask=causal(), scale=0.25)
    dy = torch.ones_like(output.attention_out)
    entries = npu_flash_attention_grad(
        *(t.detach() for t in inputs), dy, 4, "SBH", None, None, causal(), output.softmax_max, output.softmax_sum, None,
        output.attention_out.detach(), 0.25,
    )  # fmt: skip
    assert len(entries) == 14
    expected = torch.autograd.grad(output.attention_out, inputs, dy)
    for entry, gradient in zip(entries[:3], expected, strict=True):
        assert torch.equal(entry, gradient)
    assert all(entry is None for entry in entries[3:])


@pytest.mark.parametrize("layout", ["BNSD", "BSND", "TND", "HBS"])
def test_only_bsh_and_sbh(layout):
    inputs = tensors()
    with pytest.raises(ValueError, match=f"input_layout='{layout}' is not one of BSH, SBH"):
        npu_flash_attention(*inputs, 4, layout)
    with pytest.raises(ValueError, match=f"input_layout='{layout}' is not one of BSH, SBH"):
        npu_flash_attention_grad(*inputs, inputs[0], 4, layout)


def test_single_backward_cannot_know_the_mask_of_a_dropout():
    with pytest.raises(NotImplementedError, match=r"keep_prob=0\.9: npu_flash_attention_grad has no argument"):
        npu_flash_attention_grad(*tensors(), tensors()[0], 4, "SBH", keep_prob=0.9)


@pytest.mark.parametrize(("mode", "rows"), [(2, 2048), (3, 2048), (4, 2048), (6, 3072)])
def test_compressed_masks_are_the_documented_ones(mode, rows):
    mask = compressed_atten_mask(mode)
    assert mask.shape == (rows, 2048)
    assert mask.dtype == torch.bool
    assert torch.equal(mask[:2048], torch.ones(2048, 2048, dtype=torch.bool).triu(1))
    assert not mask[2048:, :1024].any()
    assert mask[2048:, 1024:].all()
    assert compressed_atten_mask(mode) is mask


def test_a_mask_first_made_for_evaluation_serves_training(monkeypatch):
    monkeypatch.setattr("ascendspeed.ops.masks._made", {})
    query = torch.randn(1, 1, 9, 4, requires_grad=True)
    with torch.inference_mode():
        compressed_atten_mask(2, DEVICE)
    mask = compressed_atten_mask(2, DEVICE)
    out = flash_attention_score(query, query, query, 1, "BNSD", atten_mask=mask, sparse_mode=2)
    out.attention_out.sum().backward()
    assert query.grad is not None


def test_a_mask_made_while_tracing_is_not_kept(monkeypatch):
    monkeypatch.setattr("ascendspeed.ops.masks._made", {})
    with FakeTensorMode():
        assert isinstance(compressed_atten_mask(6), FakeTensor)
    assert type(compressed_atten_mask(6)) is torch.Tensor
    with FakeTensorMode():
        assert isinstance(compressed_atten_mask(6), FakeTensor)


@pytest.mark.parametrize("mode", [0, 1, 5, 9])
def test_other_modes_have_no_compressed_mask(mode):
    with pytest.raises(ValueError, match=f"sparse_mode={mode} takes no compressed mask"):
        compressed_atten_mask(mode)


def test_public_names():
    for name in ("FlashAttention", "npu_flash_attention", "npu_flash_attention_grad", "flash_attention_score"):
        assert name in ascendspeed.ops.__all__
