"""The short way from Python to the operator: which calls take it, and that all others reach torch.ops as they are."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from ascendspeed import _C
from ascendspeed.ops import flash_attention_score, library
from tests.support.cases import Case
from tests.support.operator import to_device

FORWARD = torch.ops.ascendspeed.flash_attention_score.default
CASE = Case(2, 4, 2, 6, 6, 8, 8)


def arguments(**changed):
    """A call in the order of the schema, all 29 arguments."""
    query, key, value, _ = to_device(CASE.tensors())
    given = {"query": query, "key": key, "value": value, "head_num": CASE.heads, "input_layout": "BNSD"} | changed
    return [given.get(a.name, a.default_value) for a in FORWARD._schema.arguments]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_plain_call_takes_it_and_gives_what_torch_ops_gives():
    call = arguments()
    *outputs, softmax_out = _C.call_directly(*call)
    assert same(outputs, FORWARD(*call))
    assert softmax_out.shape == (0,)
    assert softmax_out.dtype == torch.float32
    assert softmax_out.device == call[0].device


def test_gradients_come_back_through_it():
    call = arguments()
    inputs = [t.requires_grad_() for t in call[:3]]
    direct = torch.autograd.grad(_C.call_directly(*call)[0].sum(), inputs)
    assert same(direct, torch.autograd.grad(FORWARD(*call)[0].sum(), inputs))


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 1},
        {"prefix": [1, 2]},
        {"query": arguments()[0].as_subclass(Subclass)},
        {"head_num": True},
        {"head_num": 1 << 64},
        {"head_num": None},
        {"atten_mask": 1.0},
        {"input_layout": b"BNSD"},
        {"input_layout": "\udc00"},
    ],
    ids=str,
)
def test_what_is_not_exactly_of_the_arguments_type_is_left_to_torch_ops(changed):
    call = arguments(**changed)
    assert _C.call_directly(*call) is None

    def outcome(function):
        try:
            return function(*call)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    assert str(outcome(lambda *call: library.forward(*call)[:3])) == str(outcome(FORWARD))


def test_too_few_arguments_are_left_to_torch_ops():
    assert _C.call_directly(*arguments()[:5]) is None


def test_a_mode_sees_the_operator():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    call = arguments()
    with Mode():
        assert _C.call_directly(*call) is None
        flash_attention_score(*call[:3], CASE.heads, "BNSD")
    assert FORWARD in seen


def test_a_refusal_is_the_same_exception():
    with pytest.raises(ValueError, match=r"sparse_mode=9 is outside 0\.\.6 \[161002\]"):
        _C.call_directly(*arguments(sparse_mode=9))
    with pytest.raises(ValueError, match="key: device meta differs from"):
        _C.call_directly(*arguments(key=torch.empty(2, 2, 6, 8, device="meta")))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_holds_the_operator():
    call = arguments()
    graph = torch.jit.trace(lambda *t: flash_attention_score(*t, CASE.heads, "BNSD").attention_out, call[:3]).graph
    assert "ascendspeed::flash_attention_score" in str(graph)


def test_forward_mode_differentiation_is_refused():
    query, *others = arguments()[:3]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(query, torch.ones_like(query))
        with pytest.raises(NotImplementedError, match="flash_attention_score has no forward-mode derivative"):
            flash_attention_score(dual, *others, CASE.heads, "BNSD")
