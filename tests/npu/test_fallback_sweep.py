"""ATen's operators on npu tensors against the CPU, values and gradients: torch's own samples of each operator.

Both run the same kernels. Strides may differ all the same: a copy to the device makes a view dense, and what torch_npu
itself takes to the CPU becomes contiguous. With them differs the order in which a kernel sums and rounds: float32 is
held to torch's own tolerance between kernels, 11 units in the last place, bfloat16 to 4. Gradients are of outputs with
random weights: the gradient of a plain sum is 0 for every normalisation, with nothing but rounding to compare.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves, tree_map

SAMPLES = 3
TOLERANCE = {torch.float32: 1.3e-6, torch.bfloat16: 2.0**-5}
Function = Callable[..., Any]

# They draw random numbers, and the streams of the two generators differ: shapes and types are compared, and that the
# values do differ.
RANDOM = {
    "bernoulli",
    "exponential",
    "multinomial",
    "nn.functional.alpha_dropout",
    "nn.functional.dropout",
    "nn.functional.dropout2d",
    "nn.functional.dropout3d",
    "nn.functional.feature_alpha_dropout.with_train",
    "nn.functional.fractional_max_pool3d",
    "nn.functional.multi_head_attention_forward",
    "nn.functional.rrelu",
    "nn.functional.scaled_dot_product_attention",
    "normal",
    "normal.in_place",
    "normal.number_mean",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "uniform",
}
# Memory that nobody has written.
UNINITIALISED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}
# What fails, in which types, and why. One that passes is an error.
BOTH = frozenset(TOLERANCE)
NO_SPARSE = "has a sparse tensor"
FAILS = {
    "nn.functional.linear_cross_entropy.chunked_none": (
        {torch.bfloat16},
        "chooses by the device in which type it sums",
    ),
    "sparse.mm.reduce": (BOTH, NO_SPARSE),
    "sparse.sampled_addmm": ({torch.float32}, NO_SPARSE),
    "tensor_split": (BOTH, "ATen takes the indices on the CPU only"),
    "to": (BOTH, "torch_npu makes no tensors in channels_last"),
    "to_sparse": (BOTH, NO_SPARSE),
}


def name_of(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def moved(tree: Any, device: str) -> Any:
    def move(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().to(device, copy=True).requires_grad_(leaf.requires_grad)
        return torch.device(device) if leaf == "cpu" or isinstance(leaf, torch.device) else leaf

    return tree_map(move, tree)


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def outputs_and_gradients(function: Function, arguments: Any, weights: list[torch.Tensor]) -> list[torch.Tensor | None]:
    """What the function returns, then the gradients of all its arguments; the first call draws the `weights`."""
    torch.default_generator.manual_seed(
        0
    )  # torch.manual_seed also asks every device there may be: slower than the rest
    positional, by_name = arguments
    results: list[torch.Tensor | None] = list(tensors(function(*positional, **by_name)))
    outputs = [result for result in results if result.requires_grad and result.is_floating_point()]
    if not weights:
        weights += [torch.randn(output.shape).to(output.dtype) for output in outputs]
    inputs = [tensor for tensor in tensors(arguments) if tensor.requires_grad]
    if outputs and inputs:
        cotangents = [weight.to(output.device) for weight, output in zip(weights, outputs, strict=True)]
        results += torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
    return results


def compare(function: Function, arguments: Any, values: bool = True) -> bool:
    """arguments: (positional, by name), on the CPU. False where the CPU does not take them."""
    weights: list[torch.Tensor] = []
    try:
        on_cpu = outputs_and_gradients(function, moved(arguments, "cpu"), weights)
    except Exception:
        return False
    on_npu = outputs_and_gradients(function, moved(arguments, "npu"), weights)
    assert len(on_cpu) == len(on_npu)
    for expected, actual in zip(on_cpu, on_npu, strict=True):
        assert (expected is None) == (actual is None)
        if expected is None or actual is None:
            continue
        assert actual.device.type == "npu"
        assert (actual.layout, actual.dtype, actual.shape) == (expected.layout, expected.dtype, expected.shape)
        if values:
            rtol = TOLERANCE.get(expected.dtype, 1.3e-6)
            torch.testing.assert_close(actual.cpu(), expected, rtol=rtol, atol=1e-5, equal_nan=True, check_stride=False)
    return True


def problem_of(op: OpInfo, dtype: torch.dtype, values: bool = True) -> str | None:
    try:
        for sample in islice(op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd), SAMPLES):
            compare(op, ((sample.input, *sample.args), sample.kwargs), values)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


@pytest.fixture(autouse=True)
def _poisoned_empty():
    """Not here: the deterministic mode behind it warns of many operators, which takes half of the time."""


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.filterwarnings("ignore")
def test_operators_give_on_the_npu_what_they_give_on_the_cpu(dtype: torch.dtype):
    ops = {name_of(op): op for op in op_db if dtype in op.dtypes}
    assert len(ops) > 500
    torch.npu.manual_seed(0)
    problems = {}
    for name, op in ops.items():
        problem = problem_of(op, dtype, values=name not in RANDOM | UNINITIALISED)
        listed = name in FAILS and dtype in FAILS[name][0]
        if listed != (problem is not None):
            problems[name] = problem or "does not fail, but is listed"
        if name in RANDOM and problem_of(op, dtype) is None:
            problems[name] = "gives the CPU's numbers, but is listed as random"
    assert problems == {}


def test_every_listed_name_is_one_of_an_operator():
    assert {*RANDOM, *UNINITIALISED, *FAILS} <= {name_of(op) for op in op_db}


class Wrong(torch.autograd.Function):
    """x, on the npu with a value or a gradient that is off."""

    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.gradient = gradient * (x.device.type == "npu")
        return x + value * (x.device.type == "npu")

    @staticmethod
    def backward(ctx, dy):
        return dy + ctx.gradient, None, None


@pytest.mark.parametrize(("value", "gradient"), [(0.01, 0), (0, 0.01)])
def test_the_comparison_notices_a_wrong_value_and_a_wrong_gradient(value, gradient):
    x = torch.randn(3, requires_grad=True)
    assert compare(Wrong.apply, ((x, 0, 0), {}))
    with pytest.raises(AssertionError, match="not close"):
        compare(Wrong.apply, ((x, value, gradient), {}))
