"""`python -m ascendspeed.bench train`: models that agree are trained in turn and measured, others are not."""

import json

import pytest
import torch

from ascendspeed.bench.__main__ import main
from ascendspeed.bench.attention import DisagreementError
from ascendspeed.bench.core_attention import SdpaAttention
from ascendspeed.bench.train import Shape
from ascendspeed.bench.train_rank import _compare, _First
from ascendspeed.training.step import StepResult

TINY = ["--seq-length", "64", "--hidden-size", "64", "--num-attention-heads", "4", "--num-layers", "1"]


@pytest.mark.distributed
def test_models_are_trained_in_turn_and_measured(tmp_path, capsys):
    file = tmp_path / "t.json"
    sizes = [*TINY, "--vocab-size", "128", "--dtype", "bf16"]
    main(["train", *sizes, "--attention", "ours", "dense", "--rounds", "2", "--profile", "--json", str(file)])
    tables = capsys.readouterr().out.split("\n\n")
    assert [line.split()[1] for line in tables[1].splitlines()] == ["attention", "-" * 9, "ours", "dense"]

    written = json.loads(file.read_text())
    assert written["machine"]["threads"] == 1
    assert written["machine"]["processes"] == 2
    assert written["shape"] == {
        "seq_length": 64,
        "num_layers": 1,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 128,
        "dtype": "bf16",
    }
    ours, dense = written["train"]["ours"], written["train"]["dense"]
    for trained in (ours, dense):
        assert len(trained["seconds"]) == 2
        assert trained["peak_bytes"] > 0
        assert 0 < len(trained["profile"]) <= 20
    called = [{each["operator"] for each in trained["profile"]} for trained in (ours, dense)]
    assert called[0] != called[1]  # two models, not one of them twice


def first(loss, scale=1.0, layer_out=1.0):
    out = torch.ones(4)
    out[0] = layer_out
    return _First(StepResult(loss, 1.0, 1e-6), out * scale)


@pytest.mark.parametrize(("dtype", "within", "beyond"), [("float32", 1e-6, 3e-6), ("bf16", 0.06, 0.2)])
def test_models_that_do_not_agree_are_not_timed(dtype, within, beyond):
    run = Shape(64, 1, 64, 4, 128, dtype).run_config()
    _compare({"ours": first(5.0), "dense": first(5.0 * (1 + within), 1 + within)}, run)
    with pytest.raises(DisagreementError, match=r"the attention of the first layer differs by .* ours and dense"):
        _compare({"ours": first(5.0), "dense": first(5.0, 1 + beyond)}, run)
    with pytest.raises(DisagreementError, match=r"the loss of the first step differs by .* ours and sdpa"):
        _compare({"ours": first(5.0), "dense": first(5.0), "sdpa": first(5.0 * (1 + beyond))}, run)
    with pytest.raises(DisagreementError):
        _compare({"ours": first(5.0), "dense": first(float("nan"))}, run)


@pytest.mark.parametrize("groups", [4, 2])
def test_torch_in_the_place_of_core_attention_is_causal_attention(groups):
    """Against softmax in float64; 1e-5 is 80 eps of float32, for sums over at most 6 numbers of O(1)."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(6, 3, heads, 8, generator=generator) for heads in (4, groups, groups))
    out = SdpaAttention.forward(None, query, key, value, None)
    q, k, v = (t.double().permute(1, 2, 0, 3) for t in (query, key, value))
    k, v = (t.repeat_interleave(4 // groups, dim=1) for t in (k, v))
    scores = (q @ k.transpose(2, 3) * 8**-0.5).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf)
    expected = (scores.softmax(dim=-1) @ v).permute(2, 0, 1, 3).flatten(2)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden-size", "66"], "--num-attention-heads=8 does not divide --hidden-size=66"),
        (["--num-attention-heads", "3", "--hidden-size", "48"], "--num-attention-heads=3 is not divisible"),
        (["--seq-length", "63"], "--seq-length=63 is not divisible"),
        (["--attention", "flash"], "argument --attention: invalid choice: 'flash'"),
        (["--num-layers", "0"], "argument --num-layers: 0 is not a whole number above 0"),
        (["--json", "nowhere/t.json"], "--json nowhere/t.json: there is no folder"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_built(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {message}")
    assert output.err.count("\n") == 1
