"""A batch's plan is made once for each kind of layer, and never handed out for another batch."""

import copy
import pickle
import types

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron import AscendDotProductAttention, attention
from ascendspeed.integrations.megatron.contract_cases import packed_params
from ascendspeed.integrations.megatron.patches import _becomes_ours
from ascendspeed.integrations.megatron.plan_memo import PlanMemo
from tests.support.device import DEVICE

LENGTH = 6


def layers(mask: str, *, alibi: bool = False, **fields) -> list[AscendDotProductAttention]:
    """Four layers that share a memo, as those of a model do."""
    config = TransformerConfig(num_layers=4, hidden_size=16, num_attention_heads=2, attention_dropout=0.0, **fields)
    groups = types.SimpleNamespace(tp=types.SimpleNamespace(size=lambda: 1, rank=lambda: 0))
    kind, plans = AttnMaskType.arbitrary if mask == "prefix" else AttnMaskType[mask], PlanMemo()
    return [
        AscendDotProductAttention(
            config, number, kind, "self", pg_collection=groups, mask=mask, alibi=alibi, plans=plans
        )
        for number in range(1, 5)
    ]


@pytest.fixture
def made(monkeypatch) -> list:
    """Every plan that is made from now on."""
    plans: list = []
    truth = attention.plan_attention
    monkeypatch.setattr(attention, "plan_attention", lambda *a, **k: plans.append(truth(*a, **k)) or plans[-1])
    return plans


def tensors(batch: int = 2, length: int = LENGTH) -> list[torch.Tensor]:
    return [torch.randn(length, batch, 2, 8, device=DEVICE) for _ in range(3)]


def call(model, mask, packed=None, **sizes) -> None:
    for layer in model:
        layer(*tensors(**sizes), mask, packed_seq_params=packed)


def test_layers_of_one_kind_share_the_plan_of_a_batch(made):
    model = layers("prefix")
    call(model, torch.tensor([1, 2]))
    assert len(made) == 1
    call(model, torch.tensor([2, 1]))  # the next batch
    assert len(made) == 2


def uncounted(buffer: torch.Tensor, values: torch.Tensor) -> None:
    buffer.data = values.clone()


def through_numpy(buffer: torch.Tensor, values: torch.Tensor) -> None:
    buffer.numpy()[:] = values.numpy()


@pytest.mark.parametrize("write", [torch.Tensor.copy_, uncounted, through_numpy])
def test_a_buffer_of_every_batch_is_read_however_it_is_written(write, made):
    """torch counts some writes only; those of a broadcast are among the others."""
    model = layers("prefix")
    buffer = torch.tensor([1, 2])
    call(model, buffer)
    write(buffer, torch.tensor([3, 0]))
    call(model, buffer)
    model, ends = layers("causal"), packed_params(((4, 4), (8, 8)))
    call(model, None, ends, batch=1, length=12)
    write(ends.cu_seqlens_q, torch.tensor([0, 5, 12], dtype=torch.int32))
    write(ends.cu_seqlens_kv, torch.tensor([0, 5, 12], dtype=torch.int32))
    call(model, None, ends, batch=1, length=12)
    assert [plan.prefix for plan in made[:2]] == [(1, 2), (3, 0)]
    assert [plan.actual_seq_qlen for plan in made[2:]] == [(4, 12), (5, 12)]


@pytest.mark.parametrize("kind", ["padding", "padding_causal"])
def test_a_dense_mask_is_what_it_is_at_the_call(kind):
    layer = layers(kind)[0]
    mask = torch.zeros(1, 1, LENGTH, LENGTH, dtype=torch.bool, device=DEVICE)
    query, key, _ = tensors(batch=1)
    layer.plan(query, key, mask)
    mask.data = torch.ones_like(mask)
    assert layer.plan(query, key, mask).atten_mask.all()


@pytest.mark.parametrize(("mask", "alibi"), [("causal", True), ("padding_causal", False), ("prefix", False)])
def test_training_follows_an_evaluation_in_inference_mode(mask, alibi):
    """What an inference makes must not be kept: autograd cannot save it."""
    given = {"causal": None, "prefix": torch.tensor([1, 2])}
    given["padding_causal"] = torch.zeros(2, 1, LENGTH, LENGTH, dtype=torch.bool, device=DEVICE)
    model = layers(mask, alibi=alibi)
    with torch.inference_mode():
        call(model, given[mask])
    query, key, value = (tensor.requires_grad_() for tensor in tensors())
    model[0](query, key, value, given[mask]).sum().backward()
    assert value.grad is not None


def test_interleaved_windows_are_two_kinds(made):
    model = layers("causal", window_size=(2, 0), window_attn_skip_freq=2)
    for _ in range(3):
        call(model, None)
    assert [plan.sparse_mode for plan in made] == [4, 2]


def test_packed_lengths_are_read_once_per_batch(made):
    model = layers("causal")
    for documents in (((4, 4), (8, 8)), ((5, 5), (7, 7))):
        call(model, None, packed_params(documents), batch=1, length=12)
    assert [plan.actual_seq_qlen for plan in made] == [(4, 12), (5, 12)]


def test_packed_and_unpacked_batches_take_turns(made):
    model = layers("causal")
    call(model, None, batch=1)
    call(model, None, packed_params(((LENGTH, LENGTH),)), batch=1)
    call(model, None, batch=1)
    assert [plan.layout for plan in made] == ["SBH", "TND", "SBH"]


def test_other_sizes_are_another_plan():
    """The same lengths, but no longer as many as samples, or longer than the keys."""
    model = layers("prefix")
    lengths = torch.tensor([1, LENGTH])
    call(model, lengths)
    for sizes, message in (({"batch": 3}, r"one per sample is \[3\]"), ({"length": LENGTH - 1}, "is outside 0..5")):
        with pytest.raises(ValueError, match=message):
            call(model, lengths, **sizes)


def test_a_model_can_be_copied_and_pickled():
    model = torch.nn.ModuleList(layers("prefix"))
    call(model, torch.tensor([1, 2]))
    copy.deepcopy(model)
    assert isinstance(pickle.loads(pickle.dumps(model[0]._plans)), PlanMemo)


def test_a_class_that_became_ours_has_one_memo_for_its_layers():
    """Layers that Megatron's own spec builds know no other layer."""

    class Theirs(torch.nn.Module):
        def __init__(self):
            raise AssertionError("Megatron's own __init__ runs for sub-classes only")

    Theirs.__qualname__ = "Theirs"
    Theirs.__init__.__qualname__ = "Theirs.__init__"
    Theirs.__init__ = _becomes_ours(Theirs.__init__)
    config = TransformerConfig(num_layers=2, hidden_size=16, num_attention_heads=2)
    groups = types.SimpleNamespace(tp=types.SimpleNamespace(size=lambda: 1, rank=lambda: 0))
    first, second = (Theirs(config, number, AttnMaskType.causal, "self", pg_collection=groups) for number in (1, 2))
    assert isinstance(first, AscendDotProductAttention)
    assert first._plans is second._plans
