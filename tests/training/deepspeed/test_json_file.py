"""DeepSpeed's JSON file and the flags say the same, or the run is refused with both named."""

import json
from pathlib import Path

import pytest

from ascendspeed.training.deepspeed import flags
from ascendspeed.training.mistakes import Mistake
from tests.training.settings import SMALL

EXAMPLE = Path(__file__).parents[3] / "examples" / "deepspeed" / "zero2.json"
TWO = {"stage": 2}


def settings(tmp_path: Path, given: object, *more: str) -> dict:
    file = tmp_path / "ds.json"
    file.write_text(given if isinstance(given, str) else json.dumps(given))
    return flags.parse([*SMALL, "--deepspeed-config", str(file), *more], world_size=2)[1]


def test_the_example_leaves_everything_to_the_flags():
    command = [*SMALL, "--deepspeed-config", str(EXAMPLE), "--global-batch-size", "8", "--clip-grad", "0.5", "--bf16"]
    run, found = flags.parse(command, world_size=2)
    assert run.deepspeed.zero_stage == found["zero_optimization"]["stage"] == 2
    assert (found["train_micro_batch_size_per_gpu"], found["gradient_accumulation_steps"]) == (2, 2)
    assert (found["gradient_clipping"], found["bf16"]) == (0.5, {"enabled": True})
    assert found["communication_data_type"] == "fp32"
    assert "train_batch_size" not in found, "DeepSpeed counts slices of a sequence as samples"
    assert "optimizer" not in found


def test_the_same_in_both_is_accepted(tmp_path):
    given = {
        "train_batch_size": 4,
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 1,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
        },
        "zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1000},
        "communication_data_type": "bf16",
        "wall_clock_breakdown": True,
    }
    found = settings(tmp_path, given, "--zero-stage", "3")
    assert found["zero_optimization"] == given["zero_optimization"]
    assert found["communication_data_type"] == "bf16"
    assert found["wall_clock_breakdown"] is True


CONTRADICTIONS = [
    ({"train_micro_batch_size_per_gpu": 4}, "train_micro_batch_size_per_gpu is 4", "--micro-batch-size=2"),
    ({"train_batch_size": 16}, "train_batch_size is 16", "--global-batch-size=4"),
    ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps is 3", "1, from --global-batch-size=4"),
    ({"gradient_clipping": 0.0}, "gradient_clipping is 0.0", "--clip-grad=1.0"),
    ({"gradient_clipping": True}, "gradient_clipping is true", "--clip-grad=1.0"),
    ({"gradient_accumulation_steps": True}, "gradient_accumulation_steps is true", "1, from --global-batch-size=4"),
    ({"bf16": {"enabled": True}}, "bf16.enabled is true", "--bf16 not given"),
    ({"bf16": {"enabled": 0}}, "bf16.enabled is 0", "--bf16 not given"),
    ({"optimizer": {"type": "Lion"}}, 'optimizer.type is "Lion"', "--optimizer adam"),
    ({"optimizer": {"params": {"lr": 1.0}}}, "optimizer.params.lr is 1.0", "--lr=0.01"),
    ({"optimizer": {"params": {"betas": [0.9, 0.95]}}}, "betas is [0.9, 0.95]", "--adam-beta1=0.9 --adam-beta2=0.999"),
]


@pytest.mark.parametrize(("given", "there", "flag"), CONTRADICTIONS)
def test_a_contradiction_names_both(tmp_path, given, there, flag):
    with pytest.raises(Mistake) as refusal:
        settings(tmp_path, {"zero_optimization": TWO, **given})
    assert str(refusal.value).startswith(f"--deepspeed-config {tmp_path}/ds.json: ")
    assert there in str(refusal.value)
    assert f"but the command line says {flag}" in str(refusal.value)


REFUSED = [
    ("{", "is not JSON"),
    ([1], "holds no JSON object"),
    (
        {"gradient_cliping": 1},
        "gradient_cliping is not a setting that is honoured here; did you mean gradient_clipping?",
    ),
    ({"optimizer": {"params": {"momentum": 1}}}, "optimizer.params.momentum is not a setting that is honoured here"),
    ({"bf16": True}, "bf16 must be an object, not true"),
    ({"scheduler": {"type": "WarmupLR"}}, "scheduler: the learning rate follows --lr-decay-style"),
    ({"fp16": {"enabled": True}}, "fp16: float16 training needs loss scaling"),
    ({"zero_optimization": {"stage": 0}}, "zero_optimization.stage (or --zero-stage) must be 1, 2 or 3, not 0"),
    ({"zero_optimization": 2}, "zero_optimization must be an object, not 2"),
    ({}, "zero_optimization.stage (or --zero-stage) must be 1, 2 or 3"),
    (
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
        "zero_optimization.offload_param is not supported yet",
    ),
    *(
        ({"zero_optimization": {"stage": 2, name: True}}, f"zero_optimization.{name} is not supported yet")
        for name in ("cpu_offload", "cpu_offload_param", "cpu_offload_use_pin_memory", "offload_optimizer")
    ),
    ({"zero_optimization": {"stage": True}}, "zero_optimization.stage (or --zero-stage) must be 1, 2 or 3, not true"),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED)
def test_what_cannot_be_honoured_is_refused(tmp_path, given, sentence):
    with pytest.raises(Mistake) as refusal:
        settings(tmp_path, given)
    assert sentence in str(refusal.value)


def test_no_offload_may_be_said(tmp_path):
    none = {"cpu_offload": False, "offload_param": None, "offload_optimizer": {"device": "none"}}
    assert settings(tmp_path, {"zero_optimization": TWO | none})["zero_optimization"] == TWO | none


def test_two_stages_are_refused(tmp_path):
    with pytest.raises(Mistake, match=r"stage is 2, but the command line says --zero-stage=3$"):
        settings(tmp_path, {"zero_optimization": TWO}, "--zero-stage", "3")


def test_a_missing_file_is_refused():
    with pytest.raises(Mistake, match=r"--deepspeed-config nowhere.json: No such file"):
        flags.parse([*SMALL, "--deepspeed-config", "nowhere.json"], world_size=2)
