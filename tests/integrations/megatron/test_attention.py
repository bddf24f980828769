"""The core attention module: what it refuses by name, when built and when called, and what it passes on."""

import types

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron import AscendDotProductAttention
from tests.support.device import DEVICE

HEADS, SIZE, LENGTH, BATCH = 4, 8, 6, 2


def config(**fields) -> TransformerConfig:
    return TransformerConfig(
        **{"num_layers": 2, "hidden_size": 32, "num_attention_heads": HEADS, "attention_dropout": 0.0, **fields}
    )


def attention(mask_type=AttnMaskType.causal, ranks=1, layer_number=1, fields=None, **arguments):
    groups = types.SimpleNamespace(tp=types.SimpleNamespace(size=lambda: ranks))
    return AscendDotProductAttention(
        config(**(fields or {})), layer_number, mask_type, "self", pg_collection=groups, **arguments
    )


def inputs(heads=HEADS):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(LENGTH, BATCH, heads, SIZE, generator=generator).to(DEVICE) for _ in range(3)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context_parallel_size": 2}, "context_parallel_size=2 is not supported yet"),
        ({"softmax_type": "off-by-one"}, "softmax_type='off-by-one' is not supported yet"),
        ({"softmax_type": "learnable"}, "softmax_type='learnable' is not supported yet"),
        ({"qk_clip": True}, "qk_clip=True is not supported yet"),
        ({"log_max_attention_logit": True}, "log_max_attention_logit=True is not supported yet"),
    ],
)
def test_what_is_missing_is_refused_when_the_model_is_built(fields, message):
    with pytest.raises(NotImplementedError, match=message):
        attention(fields=fields)


def test_the_dropout_argument_counts_before_the_config():
    assert attention(fields={"attention_dropout": 0.1}).dropout == 0.1
    assert attention(fields={"attention_dropout": 0.1}, attention_dropout=0.0).dropout == 0.0


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(dropout):
    with pytest.raises(ValueError, match=rf"attention_dropout={dropout} \(--attention-dropout\) is outside"):
        attention(attention_dropout=dropout)


def test_dropout_acts_in_training_only():
    module = attention(fields={"sequence_parallel": True, "tensor_model_parallel_size": 2, "attention_dropout": 0.5})
    plain = attention()
    expected = plain(*inputs(), None)
    assert not torch.equal(module(*inputs(), None), expected)
    assert torch.equal(module.eval()(*inputs(), None), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"packed_seq_params": PackedSeqParams()}, "packed_seq_params is not supported yet"),
        ({"attention_bias": torch.zeros(1)}, "attention_bias is not supported yet"),
        ({"attn_mask_type": AttnMaskType.no_mask}, "built for AttnMaskType.causal"),
    ],
)
def test_what_is_missing_is_refused_when_called(arguments, message):
    with pytest.raises(NotImplementedError, match=message):
        attention()(*inputs(), None, **arguments)


def test_an_unknown_mask_is_refused():
    with pytest.raises(ValueError, match="mask='diagonal' is not one of no_mask, causal"):
        attention(mask="diagonal")


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="tensor_model_parallel_size=3 does not divide num_attention_heads=4"):
        attention(ranks=3)


def test_megatrons_arguments_by_position_and_by_name():
    module = attention()
    by_position = module(*inputs(), None, AttnMaskType.causal, None, None)
    query, key, value = inputs()
    by_name = module(
        query, key, value, attention_mask=None, attn_mask_type=None, attention_bias=None, packed_seq_params=None
    )
    assert torch.equal(by_position, by_name)
    assert by_position.shape == (LENGTH, BATCH, HEADS * SIZE)


def test_the_scale_is_the_one_given_or_one_over_the_root_of_the_head_size():
    assert attention().scale == pytest.approx(SIZE**-0.5)
    assert attention(softmax_scale=0.3).scale == 0.3
    scaled = {"apply_query_key_layer_scaling": True, "attention_softmax_in_fp32": True}
    assert attention(fields=scaled, layer_number=2).scale == pytest.approx(SIZE**-0.5)  # divided and multiplied back


def test_a_layer_skipped_by_the_window_has_none():
    fields = {"window_size": (3, 0), "window_attn_skip_freq": 2}
    assert attention(fields=fields, layer_number=1).window_size == (3, 0)
    assert attention(fields=fields, layer_number=2).window_size is None


def test_neighbouring_layers_do_not_change_each_other():
    """Masks live in the call: a windowed, a prefix and a full layer used in turns give what each gives alone."""
    layers = [
        (attention(fields={"window_size": (1, 0)}), None),
        (attention(AttnMaskType.arbitrary, mask="prefix"), torch.tensor([2, 4])),
        (attention(AttnMaskType.no_mask), None),
        (attention(), None),
    ]
    alone = [layer(*inputs(), mask) for layer, mask in layers]
    before = [dict(vars(layer.config)) for layer, _ in layers]
    for _ in range(2):
        for (layer, mask), expected in zip(reversed(layers), reversed(alone), strict=True):
            assert torch.equal(layer(*inputs(), mask), expected)
    assert before == [vars(layer.config) for layer, _ in layers]
    assert len({tuple(out.flatten().tolist()) for out in alone}) == 4


def test_slices_of_megatrons_mixed_qkv_need_no_copy_by_the_caller():
    mixed = torch.randn(LENGTH, BATCH, HEADS, 3 * SIZE, device=DEVICE)
    views = mixed.split(SIZE, dim=3)
    assert not views[1].is_contiguous()
    assert torch.equal(attention()(*views, None), attention()(*(view.contiguous() for view in views), None))


def test_it_adds_nothing_to_a_checkpoint():
    assert not attention().state_dict()
