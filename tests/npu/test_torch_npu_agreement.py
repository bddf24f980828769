"""Our operator and torch_npu's own, called through the same libraries: equal bits, forward and backward."""

from typing import Any

import torch
import torch_npu
from hypothesis import given, settings
from torch import Tensor

from ascendspeed import ops
from tests.support.cases import Case, cases
from tests.support.operator import to_device
from tests.support.packed import PackedCase
from tests.support.packed_cases import packed_cases

Attributes = dict[str, Any]


def attributes_of(case: Case | PackedCase) -> Attributes:
    """On the device, by the names of npu_fusion_attention."""
    attributes = case.attributes()
    attributes["dropout_mask"] = attributes.pop("drop_mask")
    if attributes.get("softmax_layout"):
        attributes["softmax_layout"] = "TND"  # torch_npu's word for aclnn's "same_as_input"
    # torch_npu 2.13 does not use a seed that it is given: it draws one and returns it.
    del attributes["seed"], attributes["offset"]
    return to_device(attributes)


def second_version(attributes: Attributes) -> Attributes:
    renamed = {"pre_tockens": "pre_tokens", "next_tockens": "next_tokens"}
    # torch_npu 2.13 takes softmax_layout here and does not pass it on.
    return {renamed.get(name, name): value for name, value in attributes.items() if name != "softmax_layout"}


def first_version(attributes: Attributes) -> Attributes:
    absent = ("pse_type", "q_start_idx", "kv_start_idx", "query_rope", "key_rope")
    return {name: value for name, value in attributes.items() if name not in absent}


def outcome(function: Any, case: Case | PackedCase, attributes: Attributes) -> tuple[tuple[Any, ...], list[Tensor]]:
    """All that a function returns, and the gradients of what has one."""
    query, key, value, dy = to_device(tuple(tensor.detach() for tensor in case.tensors()))
    names = [name for name in ("sink", "query_rope", "key_rope") if attributes.get(name) is not None]
    attributes = attributes | {name: attributes[name].detach().requires_grad_() for name in names}
    inputs = [tensor.requires_grad_() for tensor in (query, key, value)] + [attributes[name] for name in names]
    layout = case.layout if isinstance(case, Case) else "TND"
    results = function(query, key, value, case.heads, layout, **attributes)
    # torch_npu 2.13's backward takes the size of a mask that it was given from memory that nobody has written.
    gradients = [] if case.dropout == "mask" else torch.autograd.grad(results[0], inputs, dy)
    return results, [gradient.cpu() for gradient in gradients]


def compare(name: str, case: Case | PackedCase, attributes: Attributes) -> None:
    theirs, their_gradients = outcome(getattr(torch_npu, name), case, attributes)
    drawn = {"seed": theirs[4], "offset": theirs[5]} if case.dropout == "seed" else {}
    ours, our_gradients = outcome(getattr(ops, name), case, attributes | drawn)
    for index in range(3):  # attention_out, softmax_max, softmax_sum
        assert torch.equal(ours[index].detach().cpu(), theirs[index].detach().cpu()), index
    assert ours[3].numel() == theirs[3].numel() == 0  # softmax_out is reserved
    if case.dropout == "seed":
        assert ours[4:] == theirs[4:]  # seed, offset, and how many probabilities there are
    assert len(our_gradients) == len(their_gradients)
    for our, their in zip(our_gradients, their_gradients, strict=True):
        assert torch.equal(our, their)


@settings(max_examples=60)
@given(case=cases())
def test_dense_calls_of_the_second_version(case):
    compare("npu_fusion_attention_v2", case, second_version(attributes_of(case)))


def has_first_version(case: Case | PackedCase) -> bool:
    return case.pse_type == 1 and case.starts is None and getattr(case, "rope_dim", 0) == 0


@settings(max_examples=60)
@given(case=cases().filter(has_first_version))
def test_dense_calls_of_the_first_version(case):
    compare("npu_fusion_attention", case, first_version(attributes_of(case)))


@settings(max_examples=60)
@given(case=packed_cases())
def test_packed_calls_of_the_second_version(case):
    compare("npu_fusion_attention_v2", case, second_version(attributes_of(case)))


def counts_probabilities(case: PackedCase) -> bool:
    """Whether torch_npu 2.13's first version makes the mask of a packed batch large enough, or makes none."""
    empty = 0 in (*case.q_lens, *case.kv_lens) or case.q_zeros or case.kv_zeros
    return case.dropout != "seed" or not empty


@settings(max_examples=60)
@given(case=packed_cases().filter(has_first_version).filter(counts_probabilities))
def test_packed_calls_of_the_first_version(case):
    compare("npu_fusion_attention", case, first_version(attributes_of(case)))
