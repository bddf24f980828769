"""A packed call (TND) beside other calls that must give the same: dense ones, other threads, other orders, a trace."""

import dataclasses

import pytest
import torch

from ascendspeed import ops
from ascendspeed.ops import compressed_atten_mask
from tests.support.device import DEVICE, cpu_only
from tests.support.operator import flash_attention_score, flash_attention_score_grad, has_dpse, opcheck, to_device
from tests.support.packed import Element, PackedCase, as_bnsd
from tests.support.packed_cases import MODES, four_elements
from tests.support.packed_check import run_packed

FORWARD = torch.ops.ascendspeed.flash_attention_score.default
BACKWARD = torch.ops.ascendspeed.flash_attention_score_grad.default


def dense_equivalent(case: PackedCase, element: Element) -> dict:
    """Attributes of the BSND call that does for one element what the packed call does."""
    mode, band = case.sparse_mode, element.index == case.band_index()
    attributes = case.attributes()
    pse = case.element_pse(attributes["pse"], element)
    mask = attributes["atten_mask"]
    if mask is not None and mode in (0, 1):
        mask = mask[: element.q_len, : element.kv_len]
    return {
        "scale": case.factor,
        "atten_mask": mask,
        "sparse_mode": {7: 4 if band else 3, 8: 4 if band else 2}.get(mode, mode),
        "pre_tockens": case.pre_tockens,
        "next_tockens": case.next_tockens,
        "prefix": None if case.prefix is None else [case.prefix[element.index]],
        "pse": pse,
        "pse_type": case.pse_type,
        "q_start_idx": attributes["q_start_idx"],
        "kv_start_idx": attributes["kv_start_idx"],
        "sink": attributes["sink"],
    }


EQUAL_LENGTHS = {"q_lens": (75, 3, 150, 100), "kv_lens": (75, 3, 150, 100), "q_tail": 0}
BITWISE = [
    *[four_elements(mode) for mode in (None, *MODES)],
    *[four_elements(mode, dtype=torch.bfloat16, sink=True, memory="permuted") for mode in (3, 8)],
    *[four_elements(None, **EQUAL_LENGTHS, pse=pse, pse_type=0) for pse in ("full", "row")],
    *[four_elements(None, **EQUAL_LENGTHS, pse=pse, pse_type=3, starts=(5, 40)) for pse in ("N", "BN")],
]


@pytest.mark.parametrize("case", BITWISE, ids=lambda c: f"mode{c.sparse_mode}-masked{c.masked}-{c.pse}-{c.dtype}")
def test_is_bitwise_the_dense_calls_of_its_elements(case):
    output, gradients = run_packed(case)
    query, key, value, dy = case.tensors()
    for element in case.elements():
        if element.empty:
            continue
        rows, columns = element.rows, element.columns
        inputs = [t[place].unsqueeze(0).requires_grad_() for t, place in
                  ((query, rows), (key, columns), (value, columns))]  # fmt: skip
        attributes = dense_equivalent(case, element)
        if has_dpse(case.pse, case.pse_type):
            inputs.append(attributes["pse"].requires_grad_())
        dense = flash_attention_score(*inputs[:3], case.heads, "BSND", **attributes)
        wanted = torch.autograd.grad(dense.attention_out, inputs, dy[rows].unsqueeze(0))
        assert torch.equal(output.attention_out[rows].unsqueeze(0), dense.attention_out)
        assert torch.equal(case.element_stats(output.softmax_max, element), dense.softmax_max)
        assert torch.equal(case.element_stats(output.softmax_sum, element), dense.softmax_sum)
        found = [gradients.dq[rows], gradients.dk[columns], gradients.dv[columns]]
        for actual, expected in zip(found, wanted, strict=False):
            assert torch.equal(actual.unsqueeze(0), expected)
        if has_dpse(case.pse, case.pse_type):
            assert torch.equal(case.element_pse(gradients.dpse, element), wanted[3])


@cpu_only("the gradient of pse")
def test_the_gradient_of_1024_rows_of_pse_is_that_of_the_dense_calls():
    lengths = (1030, 1300)
    case = PackedCase(lengths, lengths, heads=2, kv_heads=1, masked=True, sparse_mode=2, pse="BCS", pse_type=0)
    query, key, value, dy = case.tensors()
    attributes = case.attributes()
    pse = attributes["pse"].requires_grad_()
    out = flash_attention_score(query, key, value, 2, "TND", **attributes).attention_out
    (dpse,) = torch.autograd.grad(out, pse, dy)
    for element in case.elements():
        rows = element.rows
        dense = dense_equivalent(case, element)
        own = dense["pse"].requires_grad_()
        inputs = [t[rows].unsqueeze(0) for t in (query, key, value)]
        out = flash_attention_score(*inputs, 2, "BSND", **dense).attention_out
        (expected,) = torch.autograd.grad(out, own, dy[rows].unsqueeze(0))
        assert torch.equal(case.element_pse(dpse, element), expected)
        assert (dpse[element.index, :, :, element.kv_len :] == 0).all()


def test_the_two_orders_of_the_statistics_hold_the_same():
    case = four_elements(3)
    by_element, in_place = (
        run_packed(dataclasses.replace(case, softmax_layout=order))[0] for order in ("", "same_as_input")
    )
    assert torch.equal(by_element.attention_out, in_place.attention_out)
    for name in ("softmax_max", "softmax_sum"):
        one, other = getattr(by_element, name), getattr(in_place, name)
        assert one.shape == other.shape == (181, 4, 8)
        assert not torch.equal(one, other)
        for element in case.elements():
            block = case.element_stats(one, element)
            assert torch.equal(block, as_bnsd(other, element.rows))


@pytest.mark.parametrize("order", ["", "TND", "same_as_input"])
def test_the_backward_reads_the_statistics_in_the_order_the_forward_wrote(order):
    """dq by the registered backward, from statistics that went through the caller's hands."""
    case = four_elements(3, softmax_layout=order)
    output, gradients = run_packed(case)
    query, key, value, dy = case.tensors()
    dq = flash_attention_score_grad(
        query, key, value, dy, output.softmax_max, output.softmax_sum, None, output.attention_out.detach(), 4, "tnd",
        **case.attributes(),
    )[0]  # fmt: skip
    assert torch.equal(dq, gradients.dq)


def test_rope_inputs_are_more_depth_of_the_same_scores():
    """A packed call with rope inputs gives what the call with query and key joined to them gives."""
    case = four_elements(4, dtype=torch.bfloat16, rope_dim=8)
    output, gradients = run_packed(case)
    query, key, value, dy = case.tensors()
    query_rope, key_rope = case.rope_tensors()
    joined = [torch.cat(pair, dim=-1).requires_grad_() for pair in ((query, query_rope), (key, key_rope))]
    joined.append(value.requires_grad_())
    attributes = case.attributes() | {"query_rope": None, "key_rope": None}
    expected = flash_attention_score(*joined, 4, "TND", **attributes)
    for one, other in zip(output[:3], expected[:3], strict=True):
        assert torch.equal(one, other)
    dq, dk, dv = torch.autograd.grad(expected.attention_out, joined, dy)
    assert torch.equal(torch.cat([gradients.dq, gradients.dq_rope], dim=-1), dq)
    assert torch.equal(torch.cat([gradients.dk, gradients.dk_rope], dim=-1), dk)
    assert torch.equal(gradients.dv, dv)


@cpu_only("results do not depend on torch.set_num_threads")
@pytest.mark.parametrize("mode", [None, *MODES])
def test_results_are_bitwise_the_same_for_any_number_of_threads(mode):
    case = four_elements(
        mode, q_lens=(290, 3, 0, 310), kv_lens=(400, 5, 4, 500), dtype=torch.bfloat16, sink=True,
        **({"prefix": (250, 5, 0, 333)} if mode == 6 else {}), **({"next_tockens": -80} if mode in (7, 8) else {}),
    )  # fmt: skip
    if mode != 6:  # with rope inputs where they are allowed and with dropout where they are not
        case = dataclasses.replace(case, rope_dim=8 if mode is not None else 0)
    if not case.rope_dim:
        case = dataclasses.replace(case, dropout="seed", keep_prob=0.7)
    agree_for_threads(case, (1, 2, 3, 7))


@cpu_only("how much memory a thread may take for itself")
def test_a_head_too_large_for_the_scratch_is_computed_twice_to_the_same_bits():
    """dq of a group in float32 takes 68 blocks of 96 rows * 272 columns * 8 heads * 4 bytes = 54 MiB for the longest
    element: more than the 48 that one thread may hold, less than the 96 of two."""
    held = 68 * 96 * 272 * 8 * 4
    case = PackedCase(
        q_lens=(150, 6500, 73), kv_lens=(210, 100, 97), heads=8, kv_heads=1, qk_dim=256, v_dim=8, dtype=torch.bfloat16,
        masked=True, sparse_mode=2, pse="full", pse_type=0, sink=True, dropout="seed", keep_prob=0.7,
    )  # fmt: skip
    alone, together = agree_for_threads(case, (1, 2))
    assert alone < held < together < 2 * held


def agree_for_threads(case: PackedCase, counts: tuple[int, ...]) -> list[int]:
    """Same bits for any number of threads; returns the largest piece of memory the backward took with each."""
    results, largest = [], []
    before = torch.get_num_threads()
    try:
        for threads in counts:
            torch.set_num_threads(threads)
            with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
                output, gradients = run_packed(case)
            results.append([*output[:3], *(t for t in gradients if t is not None)])
            largest.append(max(event.cpu_memory_usage for event in trace.events() if _in_backward(event)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)
    return largest


def _in_backward(event: torch.autograd.profiler_util.FunctionEvent) -> bool:
    parent = event.cpu_parent
    return event.name == "aten::empty" and parent is not None and parent.name == BACKWARD.name()


@pytest.mark.parametrize(
    "case",
    [
        four_elements(3, softmax_layout="TND"),
        four_elements(7, dtype=torch.bfloat16, rope_dim=8),
        four_elements(None, **EQUAL_LENGTHS, pse="full", pse_type=0, dropout="mask", keep_prob=0.5),
        four_elements(None, **EQUAL_LENGTHS, pse="BN", pse_type=3, dropout="seed", keep_prob=0.5),
        four_elements(1, dtype=torch.float16, sink=True),
    ],
    ids=["stats-TND", "rope", "flattened-pse", "slopes", "sink"],
)
def test_opcheck(case):
    query, key, value, dy = to_device(case.tensors())
    attributes = to_device(case.attributes())
    inputs = [t.requires_grad_() for t in (query, key, value)]
    opcheck(FORWARD, (*inputs, case.heads, "TND"), attributes)
    inputs = [t.detach() for t in inputs]
    with torch.no_grad():
        out, maximum, total = FORWARD(*inputs, case.heads, "TND", **attributes)
    opcheck(
        BACKWARD,
        (*inputs, dy, maximum, total, None, out, case.heads, "TND"),
        attributes | {"needs_dpse": has_dpse(case.pse, case.pse_type)},
    )


def test_compile_gives_the_same_as_eager_forward_and_backward():
    case = four_elements(3)
    attributes = to_device(case.attributes())
    query, key, value, dy = to_device(case.tensors())

    def attend(query, key, value):
        output = ops.flash_attention_score(query * 2, key, value, 4, "TND", **attributes)
        return output.attention_out.sin(), output.softmax_sum

    results = []
    for call in (attend, torch.compile(attend, backend="aot_eager", fullgraph=True)):
        inputs = [t.detach().requires_grad_() for t in (query, key, value)]
        out, total = call(*inputs)
        results.append([out, total, *torch.autograd.grad(out, inputs, dy)])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_bad_packed_call_is_refused_while_tracing():
    def attend(query):
        return ops.flash_attention_score(
            query, query, query, 2, "TND", actual_seq_qlen=[3, 9], actual_seq_kvlen=[3, 9]
        ).attention_out

    with pytest.raises(Exception, match=r"actual_seq_qlen.*161002"):
        torch.compile(attend, backend="eager", fullgraph=True)(torch.randn(8, 2, 4, device=DEVICE))


def test_slices_of_a_padded_batch_and_its_packed_form_agree():
    """Padding a batch and masking it, or packing it: the same numbers, to the reference's bound in both."""
    lengths = (40, 90)
    packed = PackedCase(lengths, lengths, heads=2, kv_heads=2, masked=True, sparse_mode=2)
    query, key, value, _ = packed.tensors()
    out = flash_attention_score(query, key, value, 2, "TND", **packed.attributes()).attention_out
    padded = torch.zeros(3, 2, 90, 2, 4)
    for element in packed.elements():
        for whole, tensor in zip(padded, (query, key, value), strict=True):
            whole[element.index, : element.q_len] = tensor[element.rows]
    dense = flash_attention_score(
        *padded, 2, "BSND", scale=packed.factor, atten_mask=compressed_atten_mask(2), sparse_mode=2
    ).attention_out
    for element in packed.elements():
        assert torch.equal(dense[element.index, : element.q_len], out[element.rows])
