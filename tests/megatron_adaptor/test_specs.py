"""Every way to build a spec gets our attention, and the loss and gradients of Megatron's own."""

import importlib.util

import pytest
import torch

from tests.megatron_adaptor.models import SPECS, step_of_each
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.distributed

TE = importlib.util.find_spec("transformer_engine") is not None


@pytest.fixture(scope="module")
def steps():
    return run_ranks(2, step_of_each, tuple(SPECS), (False, True))


@pytest.mark.skipif(TE, reason="the Transformer Engine spec is Transformer Engine's here")
def test_each_spec_trains_with_our_attention_as_with_megatrons(steps):
    """1e-5 of the largest element, as in test_agreement.py: sums of float32, rounded in another order."""
    for rank in steps:
        for (kind, parallel, ours), step in rank.items():
            assert step.attention == {"AscendDotProductAttention" if ours else "DotProductAttention"}, kind
            if not ours:
                continue
            expected = rank[kind, parallel, False]
            assert step.loss == pytest.approx(expected.loss, rel=1e-6)
            assert step.gradients.keys() == expected.gradients.keys()
            for name, gradient in expected.gradients.items():
                assert gradient.abs().max() > 0, name
                assert (step.gradients[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), (kind, name)


def test_the_specs_are_the_same_model(steps):
    """The norm of a Transformer Engine layer is part of the linear layer after it; the numbers are those of the local
    spec bit for bit, as the same kernels compute them."""
    for rank in steps:
        for parallel in (False, True):
            local = rank["local", parallel, True]
            for kind in ("named", "te"):
                assert rank[kind, parallel, True].loss == local.loss
                same = [
                    torch.equal(rank[kind, parallel, True].gradients[name], gradient)
                    for name, gradient in local.gradients.items()
                    if "norm" not in name
                ]
                assert len(same) >= 4
                assert all(same)
            renamed = {
                "decoder.layers.0.input_layernorm.": "decoder.layers.0.self_attention.linear_qkv.layer_norm_",
                "decoder.layers.0.pre_mlp_layernorm.": "decoder.layers.0.mlp.linear_fc1.layer_norm_",
            }
            for ours, theirs in renamed.items():
                for part in ("weight", "bias"):
                    te = rank["te", parallel, True].gradients[theirs + part]
                    assert torch.equal(te, local.gradients[ours + part])


def test_norms_are_marked_under_sequence_parallelism(steps):
    for rank in steps:
        for (kind, parallel, _), step in rank.items():
            assert step.norms_marked == parallel, kind
