"""One packed call against the reference, batch element by batch element."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ascendspeed.ops import reference
from ascendspeed.ops.flash_attention import FlashAttentionScoreOutput
from tests.support.bounds import bounds, within
from tests.support.operator import flash_attention_score, has_dpse
from tests.support.packed import Element, PackedCase, as_bnsd


class Gradients(NamedTuple):
    """Shaped as the inputs they belong to; None where there is no such input or it has no gradient."""

    dq: Tensor
    dk: Tensor
    dv: Tensor
    dpse: Tensor | None
    dsink: Tensor | None
    dq_rope: Tensor | None
    dk_rope: Tensor | None


def run_packed(case: PackedCase) -> tuple[FlashAttentionScoreOutput, Gradients]:
    """Forward and backward of the operator."""
    query, key, value, dy = case.tensors()
    attributes = case.attributes()
    inputs = {"dq": query, "dk": key, "dv": value}
    if case.pse in ("full", "row") and has_dpse(case.pse, case.pse_type):  # 1024 rows have tests of their own
        inputs["dpse"] = attributes["pse"]
    if case.sink:
        inputs["dsink"] = attributes["sink"]
    if case.rope_dim:
        inputs |= {"dq_rope": attributes["query_rope"], "dk_rope": attributes["key_rope"]}
    for tensor in inputs.values():
        tensor.requires_grad_()
    output = flash_attention_score(query, key, value, case.heads, "TND", **attributes)
    found = torch.autograd.grad(output.attention_out, list(inputs.values()), dy)
    gradients = dict.fromkeys(Gradients._fields) | dict(zip(inputs, found, strict=True))
    return output, Gradients(**gradients)


Run = Callable[[PackedCase], tuple[FlashAttentionScoreOutput, Gradients]]


def check_packed(case: PackedCase, run: Run = run_packed) -> None:
    """Every element within the bounds of its dense problem; 0 wherever no element is."""
    output, gradients = run(case)
    query, key, value, dy = case.tensors()
    if (rope := case.rope_tensors()) is not None:  # more depth of the same scores
        assert gradients.dq_rope is not None
        assert gradients.dk_rope is not None
        query, key = torch.cat([query, rope[0]], dim=-1), torch.cat([key, rope[1]], dim=-1)
        gradients = gradients._replace(
            dq=torch.cat([gradients.dq, gradients.dq_rope], dim=-1),
            dk=torch.cat([gradients.dk, gradients.dk_rope], dim=-1),
        )
    q_used, kv_used = sum(case.q_lens), sum(case.kv_lens)
    stats_shape = (query.shape[0], case.heads, 8)

    assert output.attention_out.dtype == case.dtype
    assert output.attention_out.is_contiguous()
    assert output.attention_out.shape == dy.shape
    for name, stats in (("softmax_max", output.softmax_max), ("softmax_sum", output.softmax_sum)):
        assert stats.shape == stats_shape
        assert stats.dtype == torch.float32
        assert (stats == stats[..., :1]).all(), f"{name}: the 8 lanes differ"
        # In both orders what is left over comes last.
        assert (stats.flatten()[8 * case.heads * q_used :] == 0).all(), f"{name}: rows of no element are not 0"
    for name, tensor, used in (
        ("attention_out", output.attention_out, q_used),
        ("dq", gradients.dq, q_used),
        ("dk", gradients.dk, kv_used),
        ("dv", gradients.dv, kv_used),
    ):
        assert tensor.dtype == case.dtype
        assert (tensor[used:] == 0).all(), f"{name}: rows of no element are not 0"
    for tensor, like in ((gradients.dq, query), (gradients.dk, key), (gradients.dv, value)):
        assert tensor.shape == like.shape

    dsink = torch.zeros(case.heads, dtype=torch.float64)
    dsink_bound = torch.zeros(case.heads, dtype=torch.float64)
    for element in case.elements():
        if element.empty:
            _check_empty(case, element, output, gradients)
        else:
            terms = _check_element(case, element, (query, key, value, dy), output, gradients)
            if terms is not None:
                dsink, dsink_bound = dsink + terms[0], dsink_bound + terms[1]
    if gradients.dsink is not None:
        within("dsink", gradients.dsink, dsink, dsink_bound)


def _check_empty(case: PackedCase, element: Element, output: FlashAttentionScoreOutput, gradients: Gradients) -> None:
    """Queries without keys get zeros everywhere, and so do keys that no query sees."""
    tensors = {
        "attention_out": output.attention_out[element.rows],
        "softmax_max": case.element_stats(output.softmax_max, element),
        "softmax_sum": case.element_stats(output.softmax_sum, element),
        "dq": gradients.dq[element.rows],
        "dk": gradients.dk[element.columns],
        "dv": gradients.dv[element.columns],
    }
    for name, tensor in tensors.items():
        assert (tensor == 0).all(), f"{name} of the empty element {element.index} is not 0"


def _check_element(
    case: PackedCase,
    element: Element,
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    output: FlashAttentionScoreOutput,
    gradients: Gradients,
) -> tuple[Tensor, Tensor] | None:
    """Compare one element that has queries and keys; returns its part of dsink and of the bound on dsink."""
    places = (element.rows, element.columns, element.columns, element.rows)
    q, k, v, dy = (as_bnsd(t, place) for t, place in zip(tensors, places, strict=True))
    problem = case.reference_arguments(element)
    exact = reference.attention(q, k, v, **problem)
    wanted = reference.attention_grad(q, k, v, dy, **problem, forward=exact)
    dpse = case.element_pse(gradients.dpse, element)
    pse_shape = None if dpse is None else tuple(dpse.shape)
    bound = bounds(
        q, k, v, dy, **problem, pse_shape=pse_shape, sink_rows=sum(case.q_lens), exact=exact, gradients=wanted
    )

    def compare(name: str, actual: Tensor, expected: Tensor) -> None:
        within(f"{name} of element {element.index}", actual, expected, getattr(bound, name))

    compare("attention_out", as_bnsd(output.attention_out, element.rows), exact.attention_out)
    for name in ("softmax_max", "softmax_sum"):
        compare(name, case.element_stats(getattr(output, name), element)[..., 0], getattr(exact, name))
    compare("dq", as_bnsd(gradients.dq, element.rows), wanted.dq)
    compare("dk", as_bnsd(gradients.dk, element.columns), wanted.dk)
    compare("dv", as_bnsd(gradients.dv, element.columns), wanted.dv)
    if dpse is not None:
        by = case.factor if case.pse_type == 1 else 1.0
        compare("dpse", dpse, (by * wanted.ds).sum_to_size(pse_shape))
    if wanted.dsink is None or bound.dsink is None:
        return None
    return wanted.dsink, bound.dsink
