"""The attention contract: what it says of each mask, and that a layer which does something else stops the job."""

import dataclasses

import pytest
import torch
import torch.distributed as dist

from ascendspeed import device as devices
from ascendspeed.integrations.megatron import contract, masks
from tests.integrations.megatron.models import initialize
from tests.support.device import DEVICE
from tests.support.ranks import RankFailedError, run_ranks

pytestmark = pytest.mark.distributed

WINDOWED = {"window_size": (4, 0)}
LAYERS = [
    ("causal", {}),
    ("causal", {"bf16": True}),
    ("causal", {"attention_dropout": 0.1}),
    ("causal", WINDOWED),
    ("causal", {"window_size": (3000, 0), "bf16": True}),
    ("causal", {"window_size": (10**6, 0)}),
    ("causal_bottom_right", {}),
    ("causal_bottom_right", WINDOWED),
    ("no_mask", {}),
    ("no_mask", {"window_size": (3, 2)}),
    ("no_mask", {"window_size": (3, -1)}),
    ("padding", {}),
    ("padding_causal", {"bf16": True}),
    ("arbitrary", {}),
    ("prefix", {"num_query_groups": 1}),
    ("prefix", {"bf16": True, "apply_query_key_layer_scaling": True, "attention_softmax_in_fp32": True}),
]


def _model(mask: str, **fields):
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer.transformer_config import TransformerConfig

    from ascendspeed.integrations.megatron import get_gpt_layer_spec

    settings = {
        "num_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "attention_dropout": 0.0,
        "tensor_model_parallel_size": dist.get_world_size(),
        **fields,
    }
    config = TransformerConfig(**settings)
    gpt = GPTModel(config, get_gpt_layer_spec(config, mask=mask), vocab_size=16, max_sequence_length=8)
    return gpt.to(devices.current().current_device())


def _report_each(layers) -> list[tuple[list[str], list[str], bool]]:
    initialize()
    said = []
    for mask, fields in layers:
        model = _model(mask, **fields)
        logged: list[str] = []
        states = (torch.get_rng_state(), devices.current().get_rng_state())
        lines = contract.report_attention_contract(model, logged.append)
        now = (torch.get_rng_state(), devices.current().get_rng_state())
        said.append((lines, logged, all(map(torch.equal, states, now))))
    return said


def _lie(change: dict) -> None:
    """From now on every layer of this process gets a plan that differs from the table's in these fields."""
    from ascendspeed.integrations.megatron import attention

    truth = masks.plan_attention
    attention.plan_attention = lambda *args, **kwargs: dataclasses.replace(truth(*args, **kwargs), **change)


def _caught(wrong: dict) -> dict[str, str]:
    """What the contract says of each wrong layer; the empty string if it says nothing."""
    initialize()
    said = {}
    for name, (mask, fields, change) in wrong.items():
        model = _model(mask, **fields)
        if "scale" in change:
            for layer in model.decoder.layers:
                layer.self_attention.core_attention.scale *= change["scale"]
        _lie({field: value for field, value in change.items() if field != "scale"})
        try:
            contract.report_attention_contract(model, lambda line: None)
            said[name] = ""
        except contract.AttentionContractError as error:
            said[name] = str(error)
    return said


def _one_rank_lies(liar: int) -> None:
    initialize()
    if dist.get_rank() == liar:
        _lie({"prefix": (0, 0, 0)})
    model = _model("prefix")
    try:
        contract.report_attention_contract(model, lambda line: None)
    except contract.AttentionContractError as error:
        said: list = [None, None]
        dist.all_gather_object(said, str(error))  # every rank gets here, or this hangs and the test fails
        raise SystemExit(f"both ranks stopped: {said}") from None


@pytest.fixture(scope="module")
def reports():
    """Per rank, per layer of LAYERS: the lines returned, the lines logged, whether torch's generator stood still."""
    return run_ranks(2, _report_each, LAYERS)


SAID = [
    (
        "causal",
        {},
        ["layers 1-2", "mask causal with attention_mask None", "layout SBH sparse_mode 2", "scale 0.353553"],
    ),
    ("causal", {}, ["keep_prob 1 ", "heads 2 groups 1 of 8", f"float32 on {DEVICE}"]),
    ("causal", {"bf16": True}, ["bfloat16"]),
    ("causal", {"attention_dropout": 0.1}, ["keep_prob 0.9"]),
    ("causal", WINDOWED, ["window (4, 0)", "sparse_mode 4", "pre_tockens 4 next_tockens 0"]),
    ("causal", {"window_size": (10**6, 0)}, ["window (1000000, 0) (too wide for the check to reach its edges)"]),
    ("causal_bottom_right", {}, ["sparse_mode 3"]),
    ("no_mask", {}, ["sparse_mode 0", "atten_mask none"]),
    ("no_mask", {"window_size": (3, 2)}, ["sparse_mode 4", "pre_tockens 3 next_tockens 2"]),
    ("arbitrary", {}, ["mask arbitrary if a bool attention_mask is given", "sparse_mode 1"]),
    (
        "prefix",
        {"num_query_groups": 1},
        ["with prefix lengths", "sparse_mode 6", "atten_mask [3072, 2048]", "groups 1"],
    ),
]


@pytest.mark.parametrize(("mask", "fields", "words"), SAID)
def test_the_line_says_what_runs(reports, mask, fields, words):
    lines, logged, _ = reports[0][LAYERS.index((mask, fields))]
    assert logged == lines
    assert all(word in lines[0] for word in words), lines[0]


def test_only_rank_0_prints_and_no_generator_moves(reports):
    assert all(not logged for _, logged, _ in reports[1])
    assert all(still for rank in reports for _, _, still in rank)


# Layers that do something else than they say, each of a kind that trains without complaint.
BF16 = {"bf16": True}
WRONG = {
    "causal as full attention": ("causal", BF16, {"atten_mask": None}),
    "a window of 3000 one key too wide": ("causal", {"window_size": (3000, 0), **BF16}, {"pre_tockens": 3001}),
    "a window of 3000 one key too narrow": ("causal", {"window_size": (3000, 0), **BF16}, {"pre_tockens": 2999}),
    "a window ignored": ("causal", {"window_size": (3000, 0), **BF16}, {"sparse_mode": 3}),
    "prefix as causal": ("prefix", BF16, {"prefix": (0, 0, 0)}),
    "prefix of another sample": ("prefix", BF16, {"prefix": (13, 0, 40)}),
    "bottom-right causal aligned top-left": ("causal_bottom_right", BF16, {"sparse_mode": 2}),
    "padding ignored": ("padding", BF16, {"atten_mask": None}),
    "scale divided by the layer number": ("causal", BF16, {"scale": 0.5}),
}


def test_every_lie_is_caught():
    said = run_ranks(1, _caught, WRONG)[0]
    silent = [name for name, message in said.items() if "rank 0: mask" not in message]
    assert not silent, silent


def test_one_rank_that_lies_stops_all():
    with pytest.raises(RankFailedError, match=r"(?s)both ranks stopped: .*rank 1: mask prefix.*rank 1: mask prefix"):
        run_ranks(2, _one_rank_lies, 1)
