"""NVIDIA's or Ascend's apex is used, PyPI's apex is refused, and without any torch's fused AdamW is used.

Each state is a process of its own, with a package on its path that has the part of apex's interface that is used; what
its classes compute is torch's, and each notes that it was called.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ascendspeed.integrations import apex

ROOT = Path(__file__).parents[2]
# As NVIDIA's: the step is the group's, and a parameter's state is its two moments.
FUSED_ADAM = """
import torch
from torch.optim.adamw import adamw
class FusedAdam(torch.optim.Optimizer):
    updates = 0
    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True,
                 weight_decay=0., amsgrad=False, set_grad_none=True, capturable=False, master_weights=False):
        {refusal}
        assert adam_w_mode
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
    def step(self, closure=None, grads=None, output_params=None, scale=None, grad_norms=None, grad_scaler=None):
        FusedAdam.updates += 1
        for group in self.param_groups:
            if group["params"]:
                group["step"] = group.get("step", 0) + 1
                update(self, group, lambda state: group["step"])
class FusedSGD(torch.optim.SGD): pass
def update(self, group, step_of):
    for p in group["params"]:
        state = self.state[p]
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment not in state:
                state[moment] = torch.zeros_like(p)
        with torch.no_grad():
            adamw(
                [p], [p.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [torch.tensor(step_of(state) - 1.0)],
                amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False)
"""
NO_CUDA = "raise RuntimeError('apex.optimizers.FusedAdam requires cuda extensions')"
# As Ascend's: the step is the parameter's, and a number.
NPU_ADAM = """
import torch
class NpuFusedAdamW(torch.optim.Optimizer):
    updates = 0
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
    def step(self, closure=None):
        from apex.optimizers import update
        {refusal}
        NpuFusedAdamW.updates += 1
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["step"] = self.state[p].get("step", 0) + 1
            update(self, group, lambda state: state["step"])
"""
NEEDS_AMP = "raise RuntimeError('apex.optimizers.NpuFusedAdamW should be used with AMP.')"
MOVES = "for g in self.param_groups:\n            for p in g['params']: p.data = p.data.clone()"
NORMS = """
import torch
class FusedLayerNorm(torch.nn.LayerNorm):
    calls = 0
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, memory_efficient=False):
        super().__init__(normalized_shape, eps=eps)
    def forward(self, x):
        FusedLayerNorm.calls += 1
        return super().forward(x)
class FusedRMSNorm(torch.nn.RMSNorm):
    calls = 0
    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True, memory_efficient=False):
        super().__init__(normalized_shape, eps=eps)
    def forward(self, x):
        FusedRMSNorm.calls += 1
        return super().forward(x)
"""


def package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / "apex" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "apex" / name).write_text(text)
    return folder


def nvidias(folder: Path, refusal: str = "") -> Path:
    adam = FUSED_ADAM.format(refusal=refusal)
    return package(folder, {"__init__.py": "", "optimizers/__init__.py": adam, "normalization/__init__.py": NORMS})


def ascends(folder: Path, refusal: str = "") -> Path:
    nvidias(folder, NO_CUDA)
    more = "from .npu_fused_adamw import NpuFusedAdamW\n"
    return package(
        folder,
        {
            "optimizers/npu_fused_adamw.py": NPU_ADAM.format(refusal=refusal),
            "optimizers/__init__.py": FUSED_ADAM.format(refusal=NO_CUDA) + more,
            "normalization/__init__.py": "",
        },
    )


def pypis(folder: Path) -> Path:
    """A Pyramid toolkit; it cannot even be imported without Pyramid."""
    package(folder, {"__init__.py": "from pyramid.config import Configurator\n", "lib/__init__.py": ""})
    (folder / "apex-0.9.10.dev0.dist-info").mkdir()
    (folder / "apex-0.9.10.dev0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10.dev0\nSummary: Pyramid toolkit to add Velruse\n"
    )
    return folder


def run(program: list[str], path: Path | None = None) -> subprocess.CompletedProcess:
    places = [str(each) for each in (path, ROOT) if each is not None]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# What is chosen, and what a training of 4 iterations, in one go or in two, then calls and comes to.
TRAIN = """
import json, sys
from ascendspeed.training import flags
from ascendspeed.training.loop import train
from tests.training.settings import SMALL
folder = sys.argv[1]
command = [*SMALL, "--train-iters", "4", "--vocab-size", "300", "--split", "1,0,0", "--device", "cpu",
           "--use-cpu-initialization", "--normalization", "RMSNorm", "--data-cache-path", sys.argv[2], "--save", folder,
           "--use-distributed-optimizer"]
if sys.argv[3] == "in two":
    command += ["--load", folder]
    train(flags.parse([*command, "--exit-interval", "2"], world_size=1))
train(flags.parse(command, world_size=1))
calls = {}
for module, names in (("apex.optimizers", ("FusedAdam", "NpuFusedAdamW")),
                      ("apex.normalization", ("FusedLayerNorm", "FusedRMSNorm"))):
    for name in names:
        found = getattr(sys.modules.get(module), name, None)
        if found is not None:
            calls[name] = getattr(found, "updates", 0) or getattr(found, "calls", 0)
import megatron.core.optimizer as optimizer
print("CALLS", json.dumps(calls), optimizer.Adam.__module__)
"""


def trained(folder: Path, path: Path | None, cache: Path, go: str = "in one") -> tuple[list[float], dict, str]:
    """Losses of the training, calls of apex, what the program said."""
    done = run(["-c", TRAIN, str(folder / "save"), str(cache), go], path)
    assert done.returncode == 0, done.stderr
    history = [json.loads(line) for line in (folder / "save" / "history.jsonl").read_text().splitlines()]
    said = next(line for line in done.stdout.splitlines() if line.startswith("CALLS")).split(" ", 1)[1]
    calls, _, _ = said.rpartition(" ")
    return [each["loss"] for each in history if "loss" in each], json.loads(calls), done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def without(tmp_path_factory, cache) -> tuple[list[float], dict, str]:
    return trained(tmp_path_factory.mktemp("without"), None, cache)


def test_without_apex_torchs_fused_adam_is_used(without):
    losses, calls, said = without
    assert calls == {}
    assert "optimizer: torch's fused AdamW (apex is not installed)" in said
    assert losses[-1] < losses[0]


def test_nvidias_optimizer_and_norms_are_used(tmp_path, cache, without):
    losses, calls, said = trained(tmp_path, nvidias(tmp_path / "path"), cache)
    assert "optimizer: NVIDIA's apex.optimizers.FusedAdam (installed)" in said
    assert calls["FusedAdam"] >= 4 + 2  # and its trial of 2 updates
    assert calls["FusedRMSNorm"] >= 4 * 5  # two in each of two layers and one after them, in every iteration
    assert losses == pytest.approx(without[0], rel=1e-6)  # the stand-in is torch's unfused one


def test_ascends_optimizer_is_used(tmp_path, cache, without):
    losses, calls, said = trained(tmp_path, ascends(tmp_path / "path"), cache)
    assert "optimizer: Ascend's apex.optimizers.NpuFusedAdamW (installed)" in said
    assert calls["NpuFusedAdamW"] >= 4 + 2
    assert losses == pytest.approx(without[0], rel=1e-6)


@pytest.mark.parametrize(("make", "refusal"), [(nvidias, ""), (nvidias, NO_CUDA), (ascends, "")])
def test_a_resume_counts_on_whichever_adam_it_is(tmp_path, cache, without, make, refusal):
    """With torch's and Ascend's megatron-core saves no step once a package apex is there."""
    losses, _, said = trained(tmp_path, make(tmp_path / "path", refusal), cache, "in two")
    assert "continuing after iteration 2" in said
    assert losses == pytest.approx(without[0], rel=1e-6)


@pytest.mark.parametrize(
    ("make", "refusal", "reason"),
    [
        (nvidias, NO_CUDA, "apex.optimizers.FusedAdam: apex.optimizers.FusedAdam requires cuda extensions"),
        (ascends, NEEDS_AMP, "NpuFusedAdamW should be used with AMP."),
        (ascends, MOVES, "it moves the parameters, which megatron-core keeps in buffers"),
        (nvidias, "weight_decay = 0.0", "its update is not that of Adam with decoupled weight decay"),
    ],
)
def test_an_apex_that_does_not_work_here_is_said_and_not_used(tmp_path, make, refusal, reason):
    program = "import torch\nfrom ascendspeed.integrations.apex import choose_adam\n"
    program += "adam = choose_adam(torch.device('cpu')); print(adam.name, '|', adam.reason)"
    done = run(["-c", program], make(tmp_path, refusal))
    name, _, said = done.stdout.strip().partition(" | ")
    assert name == "torch's fused AdamW", done.stderr
    assert reason in said


@pytest.mark.parametrize("module", ["ascendspeed.training.pretrain_gpt", "ascendspeed.training.deepspeed.pretrain_gpt"])
def test_pypis_apex_is_refused_with_a_sentence(tmp_path, module):
    from tests.training.settings import SMALL

    more = ["--deepspeed-config", str(ROOT / "examples" / "deepspeed" / "zero2.json")] if "deepspeed" in module else []
    done = run(["-m", module, *SMALL, *more], pypis(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: the package apex in {tmp_path}/apex (apex 0.9.10.dev0: Pyramid toolkit to add Velruse) is not "
        "NVIDIA's or Ascend's apex: remove it (pip uninstall apex); without apex torch's fused AdamW is used"
    ]


def test_pypis_apex_is_refused_by_the_layer_spec_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(pypis(tmp_path))
    with pytest.raises(apex.UnrelatedApexError, match=r"remove it \(pip uninstall apex\)"):
        apex.find()


def test_a_folder_of_sources_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "apex" / "apex").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert apex.find() is None


def test_torchs_fused_adam_is_the_unfused_one_to_rounding():
    """Every update rounds a handful of times: 20 of them, of weights around 1, by less than 20 * 4 eps."""
    generator = torch.Generator().manual_seed(0)
    start, ended = torch.randn(1001, generator=generator), []
    gradients = [torch.randn(1001, generator=generator) for _ in range(20)]
    for fused in (True, False):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.1, fused=fused)
        for parameter.grad in gradients:
            optimizer.step()
        ended.append(parameter.detach())
    assert (ended[0] - ended[1]).abs().max() <= 80 * torch.finfo(torch.float32).eps
    assert not torch.equal(ended[0], start)
