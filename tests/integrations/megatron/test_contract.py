"""The attention contract: what it says of each mask, and that a layer which does something else stops the job."""

import dataclasses
import types

import pytest
import torch
import torch.distributed as dist
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed import device as devices
from ascendspeed.integrations.megatron import AscendDotProductAttention, contract, masks
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
    ("causal", {"alibi": True, "bf16": True}),
    ("causal", {"alibi": True, "window_size": (300, 0), "attention_dropout": 0.2}),
    ("prefix", {"alibi": True, "attention_dropout": 0.1}),
    ("causal", {"window_size": (4, 0), "window_attn_skip_freq": 2}),
]


def _model(mask: str, alibi: bool = False, **fields):
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
    spec = get_gpt_layer_spec(config, mask=mask, alibi=alibi)
    gpt = GPTModel(config, spec, vocab_size=16, max_sequence_length=8)
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
    """From now on every layer of this process gets a plan that differs from the table's in these fields.

    A value that is a function makes the new one from the plan; with "layout" only plans of that layout are changed.
    """
    from ascendspeed.integrations.megatron import attention

    only = change.get("layout")
    changes = {field: value for field, value in change.items() if field not in {"scale", "layout", "gradient"}}

    def lying(*args, **kwargs):
        plan = masks.plan_attention(*args, **kwargs)
        if only is not None and plan.layout != only:
            return plan
        return dataclasses.replace(plan, **{f: v(plan) if callable(v) else v for f, v in changes.items()})

    attention.plan_attention = lying


def _times(factor: float):
    """A forward hook that leaves the output alone and multiplies its gradient."""

    def hook(module, inputs, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * factor)

    return hook


def no_prefix(plan):
    return (0,) * len(plan.prefix)


def prefix_of_the_next(plan):
    return plan.prefix[1:] + plan.prefix[:1]


def one_document(plan):
    return plan.actual_seq_qlen[-1:]


def slopes_backwards(plan):
    return plan.pse.flip(0)


def _caught(wrong: dict) -> dict[str, str]:
    """What the contract says of each wrong layer; the empty string if it says nothing."""
    initialize()
    said = {}
    for name, (mask, fields, change) in wrong.items():
        model = _model(mask, **fields)
        if "scale" in change:
            for layer in model.decoder.layers:
                layer.self_attention.core_attention.scale *= change["scale"]
        if "gradient" in change:
            for layer in model.decoder.layers:
                layer.self_attention.core_attention.register_forward_hook(_times(change["gradient"]))
        _lie(change)
        try:
            contract.report_attention_contract(model, lambda line: None)
            said[name] = ""
        except contract.AttentionContractError as error:
            said[name] = str(error)
    return said


def _one_rank_lies(liar: int) -> None:
    initialize()
    if dist.get_rank() == liar:
        _lie({"prefix": no_prefix})
    model = _model("prefix")
    try:
        contract.report_attention_contract(model, lambda line: None)
    except contract.AttentionContractError as error:
        said: list = [None, None]
        dist.all_gather_object(said, str(error))  # every rank gets here, or this hangs and the test fails
        raise SystemExit(f"both ranks stopped: {said}") from None


def _unequal_ranks() -> dict[str, str]:
    """What each rank is told when rank 1 differs from rank 0; a rank that were waited for would be a time-out."""
    initialize()
    model = _model("causal")
    stage = torch.nn.Linear(1, 1)  # an embedding alone, or a loss
    said = {}
    for name, mine in (("one stage", stage if dist.get_rank() else model), ("no stage", stage), ("an error", model)):
        if name == "an error" and dist.get_rank():
            model.decoder.layers[0].self_attention.core_attention.register_forward_pre_hook(_stop)
        try:
            said[name] = contract.report_attention_contract(mine, lambda line: None)[0]
        except (ValueError, OSError, contract.AttentionContractError) as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def _stop(*_) -> None:
    raise OSError("out of cards")


def test_a_rank_that_cannot_check_does_not_make_the_others_wait():
    ranks = run_ranks(2, _unequal_ranks)
    for said in ranks:
        assert said["one stage"].startswith("attention layers 1-2 | mask causal")
        assert said["no stage"].startswith("ValueError: the model has no AscendDotProductAttention")
    assert ranks[0]["an error"].startswith("AttentionContractError")
    assert "rank 1: the check stopped with OSError: out of cards" in ranks[0]["an error"]
    assert ranks[1]["an error"] == "OSError: out of cards"


def test_alibi_is_checked_by_the_layers_own_process_groups():
    """Which need not be those of parallel_state, which is not even initialized here."""
    groups = types.SimpleNamespace(tp=types.SimpleNamespace(size=lambda: 2, rank=lambda: 1))
    config = TransformerConfig(num_layers=1, hidden_size=32, num_attention_heads=4, attention_dropout=0.0)
    layer = AscendDotProductAttention(config, 1, AttnMaskType.causal, "self", pg_collection=groups, alibi=True)
    model = torch.nn.Sequential(layer, torch.nn.Linear(1, 1).to(DEVICE))
    assert "ALiBi slopes 0.015625..0.00390625" in contract.report_attention_contract(model, lambda line: None)[0]


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
    ("causal", {"alibi": True, "bf16": True}, ["ALiBi slopes 0.25..0.0625"]),
    ("causal", {"alibi": True, "window_size": (300, 0), "attention_dropout": 0.2}, ["too wide for the check"]),
]


@pytest.mark.parametrize(("mask", "fields", "words"), SAID)
def test_the_line_says_what_runs(reports, mask, fields, words):
    lines, logged, _ = reports[0][LAYERS.index((mask, fields))]
    assert logged == lines
    assert all(word in lines[0] for word in words), lines[0]


def test_packed_documents_have_a_line_of_their_own(reports):
    lines = reports[0][LAYERS.index(("causal", WINDOWED))][0]
    packed = [line for line in lines if "packed_seq_params" in line]
    assert len(packed) == 1
    assert "layout TND sparse_mode 4" in packed[0]
    assert "pre_tockens 4" in packed[0]


def test_interleaved_layers_have_lines_of_their_own(reports):
    lines = reports[0][LAYERS.index(("causal", {"window_size": (4, 0), "window_attn_skip_freq": 2}))][0]
    assert "layers 1 | mask causal window (4, 0) with attention_mask None | layout SBH sparse_mode 4" in lines[0]
    assert any("layers 2 | mask causal with attention_mask None | layout SBH sparse_mode 2" in line for line in lines)


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
    "prefix as causal": ("prefix", BF16, {"prefix": no_prefix}),
    "prefix of another sample": ("prefix", BF16, {"prefix": prefix_of_the_next, "layout": "SBH"}),
    "prefix as causal in packed documents": ("prefix", BF16, {"prefix": no_prefix, "layout": "TND"}),
    "bottom-right causal aligned top-left": ("causal_bottom_right", BF16, {"sparse_mode": 2}),
    "padding ignored": ("padding", BF16, {"atten_mask": None}),
    "scale divided by the layer number": ("causal", BF16, {"scale": 0.5}),
    "packed documents as one": (
        "causal",
        BF16,
        {"actual_seq_qlen": one_document, "actual_seq_kvlen": one_document, "layout": "TND"},
    ),
    "a packed window one key too wide": ("causal", WINDOWED | BF16, {"pre_tockens": 5, "layout": "TND"}),
    "no ALiBi": ("causal", {"alibi": True, **BF16}, {"pse": None, "pse_type": 1}),
    "ALiBi of other heads": ("causal", {"alibi": True, **BF16}, {"pse": slopes_backwards}),
    "ALiBi of the root of the distance": ("causal", {"alibi": True, **BF16}, {"pse_type": 3}),
    "a gradient that is NaN": ("causal", BF16, {"gradient": float("nan")}),
    "a gradient that is too large": ("causal", BF16, {"gradient": 1.1}),
}


def test_every_lie_is_caught():
    said = run_ranks(1, _caught, WRONG)[0]
    silent = [name for name, message in said.items() if "rank 0: mask" not in message]
    assert not silent, silent


def test_one_rank_that_lies_stops_all():
    with pytest.raises(RankFailedError, match=r"(?s)both ranks stopped: .*rank 1: mask prefix.*rank 1: mask prefix"):
        run_ranks(2, _one_rank_lies, 1)
