"""The operators of CANN that torch_npu calls past torch's dispatcher: called here as it calls them."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_npu

import ascendspeed.ops  # noqa: F401

OPAPI, MATH, ACL = (ctypes.CDLL(f"lib{name}.so") for name in ("opapi", "aclnn_math", "ascendcl"))
ACL.aclGetRecentErrMsg.restype = ctypes.c_char_p
for create in ("aclCreateTensor", "aclCreateScalar", "aclCreateIntArray"):
    getattr(OPAPI, create).restype = ctypes.c_void_p
ND = 2
PARAM_NULLPTR, PARAM_INVALID = 161001, 161002
DTYPES = {
    torch.float32: 0,
    torch.float16: 1,
    torch.int8: 2,
    torch.int32: 3,
    torch.uint8: 4,
    torch.int64: 9,
    torch.float64: 11,
    torch.bool: 12,
    torch.complex64: 16,
    torch.bfloat16: 27,
}
INT4 = 29


def int64s(values) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def acl_tensor(x: torch.Tensor, dtype: int | None = None) -> ctypes.c_void_p:
    storage = x.untyped_storage()
    dims = int64s([storage.nbytes() // x.element_size()])
    sizes, strides, offset = int64s(x.shape), int64s(x.stride()), ctypes.c_int64(x.storage_offset())
    kind = DTYPES[x.dtype] if dtype is None else dtype
    rank = ctypes.c_uint64(x.dim())
    data = ctypes.c_void_p(storage.data_ptr())
    return ctypes.c_void_p(
        OPAPI.aclCreateTensor(sizes, rank, kind, strides, offset, ND, dims, ctypes.c_uint64(1), data)
    )


def acl_float(value: float) -> ctypes.c_void_p:
    return ctypes.c_void_p(OPAPI.aclCreateScalar(ctypes.byref(ctypes.c_float(value)), DTYPES[torch.float32]))


def acl_ints(values) -> ctypes.c_void_p:
    return ctypes.c_void_p(OPAPI.aclCreateIntArray(int64s(values), ctypes.c_uint64(len(values))))


def call(name: str, *arguments) -> int:
    """Both phases on the current stream; the first code that is not 0."""
    library = MATH if hasattr(MATH, name) else OPAPI
    size, executor = ctypes.c_uint64(), ctypes.c_void_p()
    first = getattr(library, f"{name}GetWorkspaceSize")
    code = first(*arguments, ctypes.byref(size), ctypes.byref(executor))
    if code != 0:
        return code
    assert size.value == 0
    stream = ctypes.c_void_p(torch.npu.current_stream().npu_stream)
    return getattr(library, name)(None, size, executor, stream)


def refusal() -> str:
    return ACL.aclGetRecentErrMsg().decode()


def sample(dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(3, 4) * 4).abs().to(dtype)


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("to", DTYPES, ids=str)
@pytest.mark.parametrize("from_", DTYPES, ids=str)
def test_copy_and_cast_between_all_types_and_any_strides(from_: torch.dtype, to: torch.dtype):
    source = sample(from_)
    on_npu = source.npu()
    for name in ("aclnnInplaceCopy", "aclnnCast"):
        storage = torch.zeros(4, 8, dtype=to, device="npu")
        out, t = acl_tensor(storage[:, 1:7:2]), acl_tensor(on_npu.t())
        arguments = (out, t) if name == "aclnnInplaceCopy" else (t, DTYPES[to], out)
        assert call(name, *arguments) == 0, refusal()
        expected = torch.zeros(4, 8, dtype=to)
        expected[:, 1:7:2] = source.t().to(to)
        assert torch.equal(storage.cpu(), expected)


def test_copy_broadcasts():
    out, row = torch.zeros(3, 4, device="npu"), torch.arange(4.0, device="npu")
    assert call("aclnnInplaceCopy", acl_tensor(out), acl_tensor(row)) == 0
    assert torch.equal(out.cpu(), torch.arange(4.0).expand(3, 4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_fill_and_pad(dtype: torch.dtype):
    x = sample(dtype)
    y = x.npu()
    padded = torch.empty(4, 7, dtype=dtype, device="npu")
    assert call("aclnnConstantPadNd", acl_tensor(y), acl_ints([1, 2, 0, 1]), acl_float(1.0), acl_tensor(padded)) == 0
    assert torch.equal(padded.cpu(), torch.nn.functional.pad(x, (1, 2, 0, 1), value=1.0))
    assert call("aclnnInplaceZero", acl_tensor(y[:, 1])) == 0
    x[:, 1] = 0
    assert torch.equal(y.cpu(), x)
    assert call("aclnnInplaceFillScalar", acl_tensor(y), acl_float(1.0)) == 0
    assert torch.equal(y.cpu(), torch.ones_like(x))


@pytest.mark.parametrize("name", ["aclnnDropoutGenMask", "aclnnDropoutGenMaskV2"])
@pytest.mark.parametrize(
    ("drop", "shape"), [(0.1, [1000]), (0.5, [3, 41, 100]), (0.999, [127]), (1 / 3, [128]), (0, [9])]
)
def test_the_dropout_mask_is_the_projects(name: str, drop: float, shape: list[int]):
    numel, seed, offset = torch.Size(shape).numel(), 2**62 + 1, 7
    expected = torch.ops.ascendspeed.dropout_gen_mask(torch.empty(0), numel, 1 - drop, seed, offset)
    out = torch.full_like(expected, 255).npu()
    numbers = [ctypes.c_double(drop), ctypes.c_int64(seed), ctypes.c_int64(offset)]
    dtype = [DTYPES[torch.bfloat16]] * name.endswith("V2")
    assert call(name, acl_ints(shape), *numbers, *dtype, acl_tensor(out)) == 0, refusal()
    assert torch.equal(out.cpu(), expected)
    by_torch_npu = torch_npu._npu_dropout_gen_mask(torch.empty(0, device="npu"), shape, drop, seed, offset)
    assert torch.equal(by_torch_npu.cpu(), expected)


def test_everything_is_dropped_with_probability_1():
    out = torch.full((16,), 255, dtype=torch.uint8, device="npu")
    numbers = [ctypes.c_double(1), ctypes.c_int64(0), ctypes.c_int64(0)]
    assert call("aclnnDropoutGenMask", acl_ints([100]), *numbers, acl_tensor(out)) == 0
    assert out.sum() == 0


def test_refusals():
    x, y = torch.ones(3, 4, device="npu"), torch.ones(4, 3, device="npu")
    mask, host = torch.zeros(32, dtype=torch.uint8, device="npu"), torch.ones(3, 4)
    number = ctypes.c_double, ctypes.c_int64
    gen_mask = "aclnnDropoutGenMask"
    for code, name, arguments, message in (
        (PARAM_NULLPTR, "aclnnInplaceCopy", [acl_tensor(x), None], "src is null"),
        (PARAM_INVALID, "aclnnInplaceCopy", [acl_tensor(x), acl_tensor(y)], r"src [4, 3] does not broadcast to self"),
        (
            PARAM_INVALID,
            "aclnnInplaceZero",
            [acl_tensor(x, INT4)],
            "self [3, 4]: dtype aclDataType 29 is not supported",
        ),
        (PARAM_INVALID, "aclnnInplaceZero", [acl_tensor(x[:1].expand(3, 4))], "the same memory"),
        (PARAM_INVALID, "aclnnCast", [acl_tensor(x), 1, acl_tensor(x)], "its dtype is not dtype"),
        (PARAM_INVALID, "aclnnCast", [acl_tensor(x), 0, acl_tensor(y)], "out: expected [3, 4]"),
        (PARAM_INVALID, "aclnnConstantPadNd", [acl_tensor(x), acl_ints([1]), acl_float(0), acl_tensor(x)], "pad=[1]"),
        (
            PARAM_INVALID,
            gen_mask,
            [acl_ints([128]), number[0](1.5), number[1](0), number[1](0), acl_tensor(mask)],
            "prob",
        ),
        (
            PARAM_INVALID,
            gen_mask,
            [acl_ints([128]), number[0](0.5), number[1](0), number[1](0), acl_tensor(mask)],
            "[16]",
        ),
        (361001, "aclnnInplaceZero", [acl_tensor(host)], "device memory"),
    ):
        assert call(name, *arguments) == code, (name, message)
        told = refusal()
        assert message in told
        assert f"[{code}]" in told


TRACED = """
import torch, torch_npu
torch_npu._npu_dropout_gen_mask(torch.empty(0, device="npu"), [200], 0.25, 3, 4)
assert torch_npu.npu_dtype_cast(torch.ones(3, device="npu"), torch.float16).sum().item() == 3
"""


def test_calls_are_recorded_like_attentions(tmp_path: Path):
    file = tmp_path / "calls.jsonl"
    environment = os.environ | {"ASCENDSPEED_HOSTCANN_TRACE": str(file)}
    subprocess.run([sys.executable, "-c", TRACED], env=environment, check=True, timeout=120)
    calls = {line["function"]: line for line in map(json.loads, file.read_text().splitlines())}
    arguments = calls["aclnnDropoutGenMaskV2GetWorkspaceSize"]["arguments"]
    out = arguments.pop("out")
    assert arguments == {"shape": [200], "prob": 0.25, "seed": 3, "offset": 4, "prob_type": "ACL_FLOAT"}
    assert (out["shape"], out["dtype"]) == ([32], "ACL_UINT8")
    assert {call["status"] for call in calls.values()} == {0}
    assert "aclnnDropoutGenMaskV2" in calls


def check_layer(on_cpu, on_npu, *shapes: tuple[int, ...], dtype: torch.dtype) -> None:
    """Both compute in float32 and round once to the dtype at the end: float32 sums in another order, bfloat16 may round
    to the neighbour."""
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2.0**-7, 2.0**-7)
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    wide = [x.float().requires_grad_() for x in inputs]
    npu = [x.npu().requires_grad_() for x in inputs]
    expected, actual = on_cpu(*wide), on_npu(*npu)
    weights = torch.randn(expected.shape).to(dtype)
    expected_grads = torch.autograd.grad(expected, wide, weights.float())
    actual_grads = torch.autograd.grad(actual, npu, weights.npu())
    for want, got in zip((expected, *expected_grads), (actual, *actual_grads), strict=True):
        torch.testing.assert_close(got.cpu().float(), want, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normed", [(16,), (3, 16)])
def test_rms_norm_and_its_gradient(dtype: torch.dtype, normed: tuple[int, ...]):
    check_layer(
        lambda x, w: torch.nn.functional.rms_norm(x, normed, w, 1e-6),
        lambda x, w: torch_npu.npu_rms_norm(x, w, 1e-6)[0],
        (4, 3, 16),
        normed,
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_swiglu_and_its_gradient(dtype: torch.dtype, dim: int):
    def swiglu(x: torch.Tensor) -> torch.Tensor:
        gate, linear = x.chunk(2, dim)
        return torch.nn.functional.silu(gate) * linear

    check_layer(swiglu, lambda x: torch_npu.npu_swiglu(x, dim=dim), (4, 6, 16), dtype=dtype)
