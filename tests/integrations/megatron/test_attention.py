"""The core attention module: what it refuses by name, when built and when called, and what it passes on."""

import types

import pytest
import torch
from megatron.core.transformer.enums import AttnBackend, AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed.integrations.megatron import AscendDotProductAttention, get_gpt_layer_spec
from ascendspeed.integrations.megatron.alibi import alibi_slopes
from ascendspeed.integrations.megatron.contract_cases import packed_params
from ascendspeed.integrations.megatron.refusals import refuse_what_is_missing
from ascendspeed.integrations.megatron.versions import _ABSENT
from ascendspeed.ops import reference
from tests.support.device import DEVICE

HEADS, SIZE, LENGTH, BATCH = 4, 8, 6, 2


def config(**fields) -> TransformerConfig:
    return TransformerConfig(
        **{"num_layers": 2, "hidden_size": 32, "num_attention_heads": HEADS, "attention_dropout": 0.0, **fields}
    )


def attention(mask_type=AttnMaskType.causal, ranks=1, layer_number=1, fields=None, **arguments):
    groups = types.SimpleNamespace(tp=types.SimpleNamespace(size=lambda: ranks, rank=lambda: ranks - 1))
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
        ({"multi_latent_attention": True}, "multi_latent_attention=True is not supported yet"),
        ({"fp8_dot_product_attention": True}, "fp8_dot_product_attention=True is not supported yet"),
        ({"fp8_multi_head_attention": True}, "fp8_multi_head_attention=True is not supported yet"),
        ({"flash_decode": True}, "flash_decode=True is not supported yet"),
        (
            {"batch_invariant_mode": True, "attention_backend": AttnBackend.flash},
            "batch_invariant_mode=True is not supported yet",
        ),
    ],
)
def test_what_is_missing_is_refused_when_the_model_is_built(fields, message):
    with pytest.raises(NotImplementedError, match=message):
        attention(fields=fields)


def test_a_field_that_an_older_release_lacks_is_what_newer_ones_take_for_no():
    older = config()
    for field in _ABSENT:
        vars(older).pop(field)
    refuse_what_is_missing(types.SimpleNamespace(**vars(older)))


@pytest.mark.parametrize(
    ("mask", "fields", "message"),
    [
        ("diagonal", {}, "mask='diagonal' is not one of no_mask, causal"),
        ("prefix", {"window_size": (3, 0)}, r"window_size=\(3, 0\): mask 'prefix' has no window"),
        ("causal", {"window_size": (3, 1)}, r"window_size=\(3, 1\) looks 1 keys ahead"),
        ("causal", {"window_size": (3, 0, 0)}, r"window_size=\(3, 0, 0\): \(left, right\)"),
        ("causal", {"window_size": (-2, 0)}, r"window_size=\(-2, 0\): \(left, right\)"),
        ("causal", {"window_attn_skip_freq": 2}, "window_attn_skip_freq=2 has no effect without window_size"),
        (
            "causal",
            {"window_size": (3, 0), "window_attn_skip_freq": [1]},
            r"window_attn_skip_freq=\[1\] has 1 entries for num_layers=2",
        ),
        ("causal", {"window_size": (3, 0), "window_attn_skip_freq": 0}, "window_attn_skip_freq=0 is less than 1"),
    ],
)
def test_a_mask_that_cannot_be_is_refused_when_the_model_is_built(mask, fields, message):
    """By the layer and by the spec, before a weight is made; also where only other layers have the window."""
    with pytest.raises(ValueError, match=message):
        attention(fields=fields, mask=mask)
    with pytest.raises(ValueError, match=message):
        get_gpt_layer_spec(config(**fields), mask=mask, pp_rank=0)


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


def test_decoding_is_refused():
    with pytest.raises(NotImplementedError, match=r"built for AttnMaskType\.causal"):
        attention()(*inputs(), None, AttnMaskType.no_mask)


DOCUMENTS = ((LENGTH, LENGTH),) * BATCH  # the samples of `inputs`, end to end


def end_to_end(tensor: torch.Tensor) -> torch.Tensor:
    """[b * s, n, d] of [s, b, n, d]: the samples one after the other."""
    return tensor.transpose(0, 1).flatten(0, 1)


@pytest.mark.parametrize("squeezed", [True, False], ids=["[t, n, d]", "[t, 1, n, d]"])
def test_packed_documents_are_attended_to_one_by_one(squeezed):
    module = attention()
    expected = end_to_end(module(*inputs(), None))
    packed = [end_to_end(tensor) if squeezed else end_to_end(tensor).unsqueeze(1) for tensor in inputs()]
    got = module(*packed, None, packed_seq_params=packed_params(DOCUMENTS))
    assert got.shape == (BATCH * LENGTH, HEADS * SIZE)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)  # a few roundings of numbers around 1


def test_what_packed_tensors_look_like_is_checked():
    with pytest.raises(ValueError, match=r"shape \[6, 2, 4, 8\] with packed_seq_params; it must be \[t, n, d\]"):
        attention()(*inputs(), None, packed_seq_params=packed_params(((LENGTH, LENGTH),)))


@pytest.mark.parametrize("shape", [(BATCH, HEADS, LENGTH, LENGTH), (1, HEADS, LENGTH, LENGTH), (1, 1, 1, LENGTH)])
def test_an_attention_bias_is_added_to_the_scaled_scores(shape):
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(9)).to(DEVICE).requires_grad_(DEVICE == "cpu")
    query, key, value = inputs()
    got = attention()(query, key, value, None, attention_bias=bias).unflatten(2, (HEADS, SIZE)).permute(1, 2, 0, 3)
    full = (BATCH, HEADS, LENGTH, LENGTH)
    expected = reference.attention(
        *(t.permute(1, 2, 0, 3).cpu() for t in (query, key, value)),
        scale=SIZE**-0.5,
        mask=torch.ones(full, dtype=torch.bool).triu(1),
        shift=bias.detach().cpu().double().expand(full),
        shift_in_scale=False,
    ).attention_out
    torch.testing.assert_close(got.detach().cpu().double(), expected, rtol=0, atol=1e-5)
    if bias.requires_grad:
        got.sum().backward()
        assert bias.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "arguments", "error", "message"),
    [
        (
            {},
            {"attention_bias": torch.zeros(1, 3, 6, 6)},
            ValueError,
            r"attention_bias has shape \[1, 3, 6, 6\]; it must",
        ),
        ({}, {"attention_bias": torch.zeros(6, 6)}, ValueError, r"attention_bias has shape \[6, 6\]"),
        (
            {"alibi": True},
            {"attention_bias": torch.zeros(1, 1, 6, 6)},
            NotImplementedError,
            "attention_bias in a layer with ALiBi",
        ),
    ],
)
def test_a_bias_that_cannot_be_added_is_refused(settings, arguments, error, message):
    with pytest.raises(error, match=message):
        attention(**settings)(*inputs(), None, **arguments)


def test_a_bias_of_packed_documents_is_refused():
    packed = [end_to_end(tensor) for tensor in inputs()]
    with pytest.raises(NotImplementedError, match="attention_bias with packed_seq_params"):
        attention()(*packed, None, None, torch.zeros(1, 1, 12, 12), packed_params(DOCUMENTS))


def test_a_rank_has_the_slopes_of_its_own_heads():
    assert attention(alibi=True).slopes == alibi_slopes(HEADS)
    assert attention(ranks=2, alibi=True).slopes == alibi_slopes(HEADS)[2:]
    assert attention().slopes is None


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
