"""Importing the adaptor: in any order, twice, taken back, refused where Megatron is not what it was."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from megatron.core import fp8_utils
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_config import TransformerConfig

from ascendspeed import device as devices
from ascendspeed.device import cuda_shim
from ascendspeed.device.cuda_scripts import SCRIPT_ROWS
from ascendspeed.device.replace import locate
from ascendspeed.integrations.megatron import patch as patch_module
from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.patch import MegatronCopiesError, Patch, check_copies, megatron_version
from ascendspeed.integrations.megatron.patches import PATCHES, TESTED, _te_becomes_ours
from tests.megatron_adaptor.models import ATTENTION
from tests.support.device import DEVICE

ROOT = Path(__file__).resolve().parents[2]
GROUPS = SimpleNamespace(tp=SimpleNamespace(size=lambda: 2, rank=lambda: 0))
CONFIG = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 4}


def targets():
    """Everything that may be replaced, and what stands there now."""
    names = [each.target for each in (*PATCHES, *cuda_shim.ROWS, *SCRIPT_ROWS)]
    found = {}
    for name in names:
        try:
            owner, attribute = locate(name, absent=True)
        except AttributeError:  # of a package that is not here
            continue
        found[name] = vars(owner).get(attribute, "inherited or absent")
    return found


ORIGINALS = targets()


def run(program: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def adaptor():
    devices.select(DEVICE)
    import ascendspeed.megatron_adaptor as module

    module.install()
    yield module
    module.restore()


def build(cls=DotProductAttention, **fields):
    config = TransformerConfig(**CONFIG | fields)
    return cls(config, 1, AttnMaskType.causal, "self", pg_collection=GROUPS)


ORDERS = {
    "first": "import ascendspeed.megatron_adaptor\n{megatron}",
    "last": "{megatron}\nimport ascendspeed.megatron_adaptor",
    "after the model": "import megatron.core.models.gpt\n{megatron}\nimport ascendspeed.megatron_adaptor",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_imports_does_not_matter(order):
    megatron = (
        "from types import SimpleNamespace\n"
        "from megatron.core.transformer.dot_product_attention import DotProductAttention\n"
        "from megatron.core.transformer.enums import AttnMaskType\n"
        "from megatron.core.transformer.transformer_config import TransformerConfig\n"
    )
    use = (
        f"\nconfig = TransformerConfig(**{CONFIG})\n"
        "groups = SimpleNamespace(tp=SimpleNamespace(size=lambda: 2, rank=lambda: 0))\n"
        "print(type(DotProductAttention(config, 1, AttnMaskType.causal, 'self', pg_collection=groups)).__name__)"
    )
    result = run(ORDERS[order].format(megatron=megatron) + use)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "AscendDotProductAttention"


def test_megatrons_classes_make_ours(adaptor):
    attention = build()
    assert type(attention) is AscendDotProductAttention
    assert attention.heads.head_num == 2
    norm = WrappedTorchNorm(TransformerConfig(**CONFIG, tensor_model_parallel_size=2, sequence_parallel=True), 32)
    assert norm.weight.sequence_parallel


def test_the_distributed_optimizer_needs_no_transformer_engine(adaptor):
    """In 0.12 it asks for the conversion to fp8 after each step, of no parameters too."""
    fp8_utils.quantize_param_shard([], [], [], None)
    if importlib.util.find_spec("transformer_engine") is None:
        with pytest.raises(RuntimeError, match="Transformer Engine"):
            fp8_utils.quantize_param_shard([torch.ones(2)], [torch.ones(2)], [0], None)


def test_a_sub_class_of_the_users_keeps_its_own_attention(adaptor):
    class Mine(DotProductAttention):
        def __init__(self, *args, **kwargs):
            self.mine = True
            torch.nn.Module.__init__(self)

    assert build(Mine).mine


def test_restore_puts_everything_back_and_install_does_it_again(adaptor):
    during = targets()
    changed = {name for name in ORIGINALS if during[name] is not ORIGINALS[name]}
    assert {patch.target for patch in PATCHES if patch.applies_to(megatron_version())} <= changed, (
        "a patch that changes nothing"
    )
    adaptor.install()
    assert all(targets()[name] is during[name] for name in during), "installing twice is once"
    adaptor.restore()
    assert all(targets()[name] is before for name, before in ORIGINALS.items())
    adaptor.restore()
    assert cuda_shim.installed_for() is None
    adaptor.install()
    assert type(build()) is AscendDotProductAttention


def test_one_patch_can_be_taken_back_and_made_again(adaptor):
    during = targets()
    adaptor.restore(ATTENTION)
    assert targets() == during | {ATTENTION: ORIGINALS[ATTENTION]}
    adaptor.install()
    assert type(build()) is AscendDotProductAttention
    assert [name for name, now in targets().items() if now is not during[name]] == [ATTENTION]


def test_a_patch_that_there_is_not_cannot_be_taken_back(adaptor):
    during = targets()
    with pytest.raises(ValueError, match=rf"'no:patch' is not a patch; restore\(\) takes {ATTENTION}, .*TENorm"):
        adaptor.restore(ATTENTION, "no:patch")
    assert targets() == during


def test_a_shim_of_the_users_survives_restore(adaptor):
    adaptor.restore()
    cuda_shim.install(devices.current())
    before = targets()
    try:
        adaptor.install()
        assert targets() != before
        for _ in range(2):
            adaptor.restore()
            assert targets() == before
            assert cuda_shim.installed_for() == devices.current()
    finally:
        cuda_shim.uninstall()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_attention_heads": 3, "hidden_size": 48},
            "tensor_model_parallel_size=2 does not divide num_attention_heads=3",
        ),
        ({"num_attention_heads": 6, "hidden_size": 48, "num_query_groups": 3}, "does not divide num_query_groups=3"),
        ({"attention_dropout": 1.5}, "attention_dropout=1.5"),
    ],
)
def test_a_config_that_does_not_work_is_refused_in_one_line(adaptor, fields, message):
    with pytest.raises(ValueError, match=message) as refusal:
        build(**fields)
    assert "\n" not in str(refusal.value)


class LikeTransformerEngines(torch.nn.Module):
    def __init__(self, *args, **kwargs):
        raise AssertionError("the patch makes ours of it")

    __init__ = _te_becomes_ours(__init__)


def test_what_transformer_engines_attention_takes_besides(adaptor):
    config = TransformerConfig(**CONFIG)
    arguments = (config, 1, AttnMaskType.causal, "self", 0.25, 0.5)
    more = {"k_channels": 8, "v_channels": 8, "num_splits": None, "cp_comm_type": "p2p", "pg_collection": GROUPS}
    attention = LikeTransformerEngines(*arguments, **more)
    assert type(attention) is AscendDotProductAttention
    assert (attention.dropout, attention.scale) == (0.25, 0.5)
    for name in ("k_channels", "v_channels", "num_splits"):
        with pytest.raises(NotImplementedError, match=rf"^{name}=4 is not supported"):
            LikeTransformerEngines(*arguments, **more | {name: 4})
    with pytest.raises(TypeError, match="positional"):
        LikeTransformerEngines(*arguments, 8)


@pytest.mark.parametrize(
    ("patch", "named"),
    [
        (Patch("megatron.core.transformer.dot_product_attention:Moved.__init__", lambda _: None, "", TESTED), "Moved"),
        (Patch("megatron.core.no_such_module:Class.forward", lambda _: None, "", TESTED), "no_such_module"),
        (Patch("megatron.core.models.gpt.gpt_layer_specs:Nobody", lambda _: None, "", TESTED, adds=True), "Nobody"),
    ],
)
def test_a_target_that_moved_is_an_error_that_names_it_and_nothing_is_replaced(adaptor, monkeypatch, patch, named):
    adaptor.restore()
    monkeypatch.setattr(adaptor, "PATCHES", (*PATCHES, patch))
    with pytest.raises(AttributeError, match=rf"{named}.* is not in megatron-core {megatron_version()}"):
        adaptor.install()
    assert all(targets()[name] is before for name, before in ORIGINALS.items())


def test_a_megatron_that_was_never_tested_is_refused(adaptor, monkeypatch):
    adaptor.restore()
    monkeypatch.setattr(adaptor, "megatron_version", lambda: "0.99.0")
    with pytest.raises(RuntimeError, match=r"megatron-core 0\.99\.0 is not supported: .* works with >=0\.12,<0\.17"):
        adaptor.install()


def test_the_patches_of_every_release_are_in_the_range_of_all():
    assert {patch.versions for patch in PATCHES} == {TESTED, ">=0.12,<0.13", ">=0.13,<0.17"}


def test_a_transformer_engine_that_does_not_load_is_none(tmp_path, monkeypatch):
    def applied():
        return [patch.target for patch in PATCHES if patch.applies_to(megatron_version())]

    before = applied()
    (tmp_path / "transformer_engine").mkdir()
    (tmp_path / "transformer_engine" / "__init__.py").write_text("raise ImportError('libcudnn.so')")
    monkeypatch.syspath_prepend(tmp_path)
    assert applied() == before
    monkeypatch.setattr("megatron.core.models.gpt.gpt_layer_specs.HAVE_TE", True)
    assert "megatron.core.extensions.transformer_engine:TEDotProductAttention.__init__" in applied()


def copy_of_megatron(folder: Path, minor: int, trainer: bool) -> Path:
    core = folder / "megatron" / "core"
    core.mkdir(parents=True)
    (core / "__init__.py").write_text("")
    (core / "package_info.py").write_text(f"MAJOR = 0\nMINOR = {minor}\nPATCH = 3\n")
    if trainer:
        (folder / "megatron" / "training").mkdir()
        (folder / "megatron" / "training" / "__init__.py").write_text("")
    return core


def test_a_second_copy_of_megatron_is_named(tmp_path, monkeypatch):
    second = copy_of_megatron(tmp_path, 13, trainer=False)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with pytest.warns(UserWarning, match=rf"two copies of megatron-core: .*{second} \(0\.13\.3\) is on the path too"):
        check_copies()


def test_two_copies_that_would_be_mixed_are_refused(tmp_path, monkeypatch):
    """A checkout behind an installed megatron-core: the trainer of the one would run on the core of the other."""
    copy_of_megatron(tmp_path, 13, trainer=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    used = patch_module._folder_of("megatron.core")
    folders = {"megatron.core": used, "megatron.training": tmp_path.resolve() / "megatron" / "training"}
    monkeypatch.setattr(patch_module, "has", lambda name: True)
    monkeypatch.setattr(patch_module, "_folder_of", folders.__getitem__)
    with pytest.raises(
        MegatronCopiesError, match=rf"mixed: megatron\.core is {used} .* put {tmp_path.resolve()} first"
    ):
        check_copies()


def test_the_list_names_every_target_and_imports_no_trainer():
    result = run(
        "import runpy, sys\n"
        "sys.argv = ['megatron_adaptor', '--list']\n"
        "runpy.run_module('ascendspeed.megatron_adaptor', run_name='__main__')\n"
        "import torch; from megatron.core.transformer.dot_product_attention import DotProductAttention\n"
        "print(DotProductAttention.__init__.__module__, torch.zeros.__module__)\n"
        "assert not [name for name in sys.modules if name.startswith('megatron.training')]\n"
    )
    assert result.returncode == 0, result.stderr
    for each in (*PATCHES, *cuda_shim.ROWS, *SCRIPT_ROWS):
        assert f" {each.target}: {each.reason}\n" in result.stdout
    assert f"megatron-core {megatron_version()}" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("megatron.core.transformer.dot_product_attention ")
