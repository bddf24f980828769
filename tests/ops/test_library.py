"""The operator as torch sees it: opcheck, gradcheck, compile, checkpointing, threads and memory."""

import functools

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ascendspeed import _C
from ascendspeed.ops import compressed_atten_mask, flash_attention_score
from ascendspeed.ops.library import peak_gflops
from tests.support import operator
from tests.support.cases import LAYOUTS, Case
from tests.support.device import DEVICE, cpu_only
from tests.support.operator import has_dpse, opcheck, to_device

FORWARD = torch.ops.ascendspeed.flash_attention_score.default
BACKWARD = torch.ops.ascendspeed.flash_attention_score_grad.default

OPCHECK_CASES = [
    Case(2, 4, 2, 10, 14, 8, 6, layout=layout, dtype=dtype, masked=masked, sparse_mode=mode)
    for layout, dtype, masked, mode in [
        *[(layout, torch.float32, True, 3) for layout in LAYOUTS],
        ("BNSD", torch.bfloat16, True, 1),
        ("BSH", torch.float16, False, 0),
    ]
] + [
    Case(2, 4, 2, 12, 12, 8, 6, pse="1NSS", pse_type=0, dropout="mask", keep_prob=0.5),
    Case(2, 4, 2, 12, 12, 8, 6, pse="BN", pse_type=3, starts=(1, 2), dropout="seed", keep_prob=0.5),
    Case(2, 4, 2, 12, 12, 8, 6, dtype=torch.bfloat16, pse="BN1S", sink=True),
]


def inputs_of(case):
    query, key, value, dy = to_device(case.tensors())
    return [t.requires_grad_() for t in (query, key, value)], dy


@pytest.mark.parametrize(
    "case", OPCHECK_CASES, ids=lambda c: f"{c.layout}-{c.dtype}-mode{c.sparse_mode}-{c.pse}-{c.dropout}"
)
def test_opcheck(case):
    inputs, dy = inputs_of(case)
    attributes = to_device(case.attributes())
    opcheck(FORWARD, (*inputs, case.heads, case.layout), attributes)
    with torch.no_grad():
        out, maximum, total = FORWARD(*inputs, case.heads, case.layout, **attributes)
    tensors = [t.detach() for t in inputs]
    opcheck(
        BACKWARD,
        (*tensors, dy, maximum, total, None, out, case.heads, case.layout),
        attributes | {"needs_dpse": has_dpse(case.pse, case.pse_type)},
    )


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_peak_counts_what_its_loop_does(bfloat16):
    """Two operations for each product and sum; units of 1, 2 or 4 numbers in vectors of at least 4 floats."""
    one, ten = _C.spin(bfloat16, 1), _C.spin(bfloat16, 10)
    assert one > 0
    assert one % 8 == 0
    assert ten == 10 * one
    assert peak_gflops(torch.bfloat16 if bfloat16 else torch.float32, 0.01) > 0


@pytest.mark.parametrize("mode", [None, 2, 3, 4, 6])
def test_gradcheck_through_float64(mode):
    """Central differences in float64 around the float32 operator: step 1e-2, so that its rounding of about 1e-6 over
    2e-2 stays below the stated 1e-3."""
    case = Case(1, 4, 2, 5, 6, 3, 2, masked=mode is not None, sparse_mode=mode or 0, prefix=(3,), scale=0.7)
    attributes = to_device(case.attributes()) | ({"pre_tockens": 1, "next_tockens": 1} if mode == 4 else {})

    def upcast(*tensors):
        tensors = (t.float() for t in tensors)
        return operator.flash_attention_score(*tensors, 4, "BNSD", **attributes).attention_out.double()

    inputs = [t.double().requires_grad_() for t in case.tensors()[:3]]
    assert torch.autograd.gradcheck(upcast, inputs, eps=1e-2, atol=1e-3, rtol=1e-3)


def test_statistics_are_not_differentiable_and_unused_output_costs_nothing():
    inputs, _ = inputs_of(Case(1, 1, 1, 4, 4, 4, 4))
    output = flash_attention_score(*inputs, 1, "BNSD")
    assert output.attention_out.requires_grad
    assert not output.softmax_max.requires_grad
    assert not output.softmax_sum.requires_grad


def test_a_second_derivative_is_refused():
    inputs, dy = inputs_of(Case(1, 1, 1, 4, 4, 4, 4))
    out = flash_attention_score(*inputs, 1, "BNSD").attention_out
    (dq,) = torch.autograd.grad(out, inputs[:1], dy, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives are not built"):
        dq.sum().backward()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_gives_the_same_as_eager_and_keeps_dynamic_shapes(dynamic):
    mask = compressed_atten_mask(3, DEVICE)
    frames = []

    def counting_backend(graph, _):
        frames.append(graph)
        return graph.forward

    def attend(query, key, value):
        return flash_attention_score(
            query * 2, key, value, 2, "BSH", atten_mask=mask, sparse_mode=3
        ).attention_out.sin()

    compiled = torch.compile(attend, backend=counting_backend, fullgraph=True, dynamic=dynamic)
    for length in (8, 24, 40):
        inputs, _ = inputs_of(Case(2, 2, 2, length, length + 8, 8, 8, layout="BSH", seed=length))
        assert torch.equal(compiled(*inputs), attend(*inputs))
    if dynamic:
        assert len(frames) == 1, "a new length must not compile anew"


def test_compiled_backward_gives_the_same_as_eager():
    def loss(query, key, value):
        return flash_attention_score(query, key, value, 2, "BNSD", scale=0.3).attention_out.square().sum()

    inputs, _ = inputs_of(Case(1, 2, 1, 9, 9, 8, 8))
    eager = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(*inputs), inputs)
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other)


def test_a_bad_call_is_refused_while_tracing():
    def attend(query):
        return flash_attention_score(query, query, query, 3, "BNSD").attention_out

    with pytest.raises(Exception, match=r"head_num=3 is not the head count 2"):
        torch.compile(attend, backend="eager", fullgraph=True)(torch.randn(1, 2, 4, 4, device=DEVICE))


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    inputs, dy = inputs_of(Case(1, 2, 2, 30, 30, 8, 8))
    mask = compressed_atten_mask(2, DEVICE)
    attend = functools.partial(flash_attention_score, head_num=2, input_layout="BNSD", atten_mask=mask, sparse_mode=2)
    plain = torch.autograd.grad(attend(*inputs).attention_out, inputs, dy)
    for tensor in inputs:
        tensor.grad = None
    checkpoint(lambda *t: attend(*t).attention_out, *inputs, use_reentrant=reentrant).backward(dy)
    for tensor, expected in zip(inputs, plain, strict=True):
        assert torch.equal(tensor.grad, expected)


def test_a_mask_changed_in_place_before_the_backward_is_noticed():
    inputs, dy = inputs_of(Case(1, 1, 1, 4, 4, 4, 4))
    mask = torch.zeros(4, 4, dtype=torch.bool, device=DEVICE)
    out = flash_attention_score(*inputs, 1, "BNSD", atten_mask=mask).attention_out
    mask[0, 0] = True
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward(dy)


@cpu_only("results do not depend on torch.set_num_threads")
@pytest.mark.parametrize("mode", [0, 1, 2, 3, 4, 6])
def test_results_are_bitwise_the_same_for_any_number_of_threads(mode):
    case = Case(
        2, 6, 2, 300, 500, 40, 24, dtype=torch.bfloat16, masked=True, sparse_mode=mode, mask_density=0.3,
        pre_tockens=200, next_tockens=90, prefix=(250, 333),
    )  # fmt: skip
    agree_for_threads(case, (1, 2, 3, 7))


@cpu_only("how much memory a thread may take for itself")
def test_heads_too_large_for_the_scratch_are_computed_twice_to_the_same_bits():
    """dq of 8 heads in float32 takes 132 MiB: one thread may hold 48 of them and so none, seven may hold all."""
    case = Case(
        1, 8, 1, 8192, 8192, 512, 512, dtype=torch.bfloat16, masked=True, sparse_mode=4, pre_tockens=60, next_tockens=0
    )
    agree_for_threads(case, (1, 2, 7))


def agree_for_threads(case, counts):
    results = []
    before = torch.get_num_threads()
    try:
        for threads in counts:
            torch.set_num_threads(threads)
            inputs, dy = inputs_of(case)
            output = flash_attention_score(*inputs, case.heads, case.layout, **case.attributes())
            results.append([*output[:3], *torch.autograd.grad(output.attention_out, inputs, dy)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def allocated(case, mask) -> int:
    """Bytes that forward and backward take: on the CPU all in all, on another device at most at one time."""
    inputs, dy = inputs_of(case)

    def run():
        out = flash_attention_score(*inputs, 2, "BNSD", atten_mask=mask, sparse_mode=2).attention_out
        torch.autograd.grad(out, inputs, dy)

    if DEVICE == "cpu":
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        return sum(event.cpu_memory_usage for event in profile.events() if event.cpu_memory_usage > 0)
    memory = torch.get_device_module(DEVICE)
    memory.reset_peak_memory_stats()
    before = memory.memory_allocated()
    run()
    return memory.max_memory_allocated() - before


def test_no_buffer_grows_with_the_square_of_the_length():
    """For S and 2 S: twice as much, where S x S would be four times."""
    mask = compressed_atten_mask(2, DEVICE)
    totals = []
    for length in (2048, 4096):
        totals.append(allocated(Case(1, 2, 2, length, length, 16, 16), mask))
        assert 0 < totals[-1] < length * length * 4, "less than one float32 score matrix"
    assert totals[1] < 2.2 * totals[0]
