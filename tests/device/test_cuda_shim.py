"""The shim: every row is used by the Megatron call it names, originals come back, nobody else notices."""

import importlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch

from ascendspeed import device as devices
from ascendspeed.device import Device, cuda_shim
from tests.support.device import DEVICE
from tests.support.ranks import run_ranks

CPU = Device("cpu")


@pytest.fixture
def installed():
    cuda_shim.install(CPU)
    yield
    cuda_shim.uninstall()


def _calls_seen_in_training(folder: str) -> set[tuple[str, str]]:
    """Train and save two tiny models with TP=2 and sequence parallelism; (row's target, "module:function") pairs."""
    cuda_shim.install(devices.current())
    rows = {}
    for row in cuda_shim.rows_of(devices.current()):
        owner, name = row.owner()
        replacement = getattr(owner, name)
        code = getattr(replacement, "getLogger", replacement).__code__
        rows[code, name if code.co_name == "redirected" else None] = row.target
    codes = {code for code, _ in rows}
    seen = set()

    def on_call(frame, event, _):
        code = frame.f_code
        if event != "call" or code not in codes:
            return
        factory = None
        if code.co_name == "redirected":
            if not str(frame.f_locals["kwargs"].get("device")).startswith("cuda"):
                return  # Megatron calls torch.zeros for much; only device="cuda" needs the row
            factory = frame.f_locals["factory"].__name__
        if (code, factory) in rows:
            caller = frame.f_back
            seen.add((rows[code, factory], f"{caller.f_globals['__name__']}:{_name(caller.f_code)}"))

    sys.setprofile(on_call)
    _train_and_save(folder)
    _tie_embeddings_of_two_stages()
    sys.setprofile(None)
    return seen


def _name(code: types.CodeType) -> str:
    """Class.function, or before Python 3.11 the function alone."""
    return getattr(code, "co_qualname", code.co_name)


def _train_and_save(folder: str) -> None:
    from megatron.core import dist_checkpointing, parallel_state
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
    from megatron.core.models.gpt import GPTModel
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.module import Float16Module
    from megatron.core.transformer.transformer_config import TransformerConfig

    from ascendspeed.integrations.megatron import get_gpt_layer_spec

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    model_parallel_cuda_manual_seed(1)
    for dtype in (torch.float32, torch.bfloat16):
        config = TransformerConfig(
            num_layers=1,
            hidden_size=16,
            num_attention_heads=2,
            attention_dropout=0.0,
            hidden_dropout=0.1,
            tensor_model_parallel_size=2,
            sequence_parallel=True,
            params_dtype=dtype,
            bf16=dtype == torch.bfloat16,
            finalize_model_grads_func=finalize_model_grads,
        )
        spec = get_gpt_layer_spec(config, core_attention=DotProductAttention)
        gpt = GPTModel(config, spec, vocab_size=16, max_sequence_length=8).to(devices.current().current_device())
        module = Float16Module(config, gpt) if config.bf16 else gpt
        model = DistributedDataParallel(config, DistributedDataParallelConfig(grad_reduce_in_fp32=True), module)
        optimizer = get_megatron_optimizer(
            OptimizerConfig(lr=0.1, bf16=config.bf16, params_dtype=dtype, clip_grad=1.0), [model]
        )
        tokens = torch.arange(8, device=devices.current().current_device()).view(1, 8)
        before = [parameter.clone() for parameter in gpt.parameters()]
        get_forward_backward_func()(
            forward_step_func=lambda _, chunk: (
                chunk(tokens, tokens, None, labels=tokens),  # noqa: B023  called before the next model is made
                lambda losses: (losses.float().mean(), {}),
            ),
            data_iterator=None,
            model=[model],
            num_microbatches=1,
            seq_length=8,
            micro_batch_size=1,
            forward_only=False,
        )
        succeeded, norm, _ = optimizer.step()
        assert succeeded
        assert norm > 0
        assert any((old != new).any() for old, new in zip(before, gpt.parameters(), strict=True))
        name = os.path.join(folder, str(dtype))
        if torch.distributed.get_rank() == 0:
            os.makedirs(name)
        torch.distributed.barrier()
        dist_checkpointing.save({"model": gpt.sharded_state_dict()}, name)
        state = dist_checkpointing.load({"model": gpt.sharded_state_dict()}, name)
        assert all(torch.equal(state["model"][n], p) for n, p in gpt.named_parameters())


def _tie_embeddings_of_two_stages() -> None:
    from megatron.core import parallel_state
    from megatron.core.models.gpt import GPTModel
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer.transformer_config import TransformerConfig

    from ascendspeed.integrations.megatron import get_gpt_layer_spec

    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(pipeline_model_parallel_size=2)
    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=2,
        pipeline_model_parallel_size=2,
        pipeline_dtype=torch.float32,
        use_cpu_initialization=True,
    )
    first = parallel_state.is_pipeline_first_stage()
    gpt = GPTModel(
        config,
        get_gpt_layer_spec(config),
        vocab_size=16,
        max_sequence_length=8,
        pre_process=first,
        post_process=not first,
        share_embeddings_and_output_weights=True,
    )
    here = devices.current().current_device()
    weight = gpt.shared_embedding_or_output_weight().detach()
    assert weight.device == here
    each = [torch.empty_like(weight) for _ in range(2)]
    torch.distributed.all_gather(each, weight)
    assert torch.equal(*each)
    assert each[0].any()


@pytest.mark.distributed
def test_every_row_is_needed_by_the_call_it_names(tmp_path):
    qualified = sys.version_info >= (3, 11)
    for seen in run_ranks(2, _calls_seen_in_training, str(tmp_path)):
        unused = []
        for row in cuda_shim.rows_of(Device(DEVICE)):
            module, _, function = row.needed_by.partition(":")
            if (row.target, f"{module}:{function if qualified else function.rpartition('.')[2]}") not in seen:
                unused.append((row.target, row.needed_by))
        assert not unused, "rows to delete, or to give the call that still needs them"


def test_install_twice_is_once_and_uninstall_puts_everything_back():
    def attributes():
        return [getattr(*row.owner()) for row in cuda_shim.ROWS]

    before = attributes()
    cuda_shim.install(CPU)
    replaced = attributes()
    cuda_shim.install(CPU)
    assert all(a is not b for a, b in zip(before, replaced, strict=True))
    assert [id(a) for a in attributes() if isinstance(a, types.FunctionType)] == [
        id(a) for a in replaced if isinstance(a, types.FunctionType)
    ]
    assert cuda_shim.installed_for() == CPU
    cuda_shim.uninstall()
    assert attributes() == before
    cuda_shim.uninstall()
    assert cuda_shim.installed_for() is None


def test_another_device_needs_an_uninstall(installed):
    with pytest.raises(RuntimeError, match=r"installed for 'cpu'; uninstall\(\) it before 'npu'"):
        cuda_shim.install(Device("npu"))


def test_cuda_needs_no_row():
    before = torch.cuda.current_device
    cuda_shim.install(Device("cuda"))
    assert torch.cuda.current_device is before
    cuda_shim.uninstall()


def test_a_moved_target_is_an_error_and_replaces_nothing(monkeypatch):
    moved = cuda_shim.Row("torch.cuda:no_such_name", "megatron.core:nobody", "", lambda device, original: None)
    monkeypatch.setattr(cuda_shim, "ROWS", (*cuda_shim.ROWS, moved))
    before = torch.zeros
    with pytest.raises(AttributeError, match=r"torch\.cuda:no_such_name does not exist"):
        cuda_shim.install(CPU)
    assert torch.zeros is before
    assert cuda_shim.installed_for() is None


@pytest.mark.parametrize("factory", ["zeros", "ones"])
def test_only_cuda_is_redirected(installed, factory):
    make = getattr(torch, factory)
    for device in ("cuda", torch.device("cuda"), torch.device("cuda", 0), "cuda:0", "cpu", None):
        assert make(2, device=device).device.type == "cpu"
    assert make(2, device="meta").device.type == "meta"
    assert torch.tensor([1.0], device="cuda").tolist() == [1.0]


def test_tensor_type_is_a_lie_told_to_megatron_only(installed):
    tensor = torch.zeros(1)
    asked = {"tensor": tensor}
    exec("answer = tensor.type()", {"__name__": "megatron.core.optimizer.optimizer"}, asked)
    assert asked["answer"] == "torch.cuda.FloatTensor"
    assert tensor.type() == "torch.FloatTensor"
    assert tensor.type(torch.float64).dtype == torch.float64
    assert torch.zeros(1, device="meta").type() != "torch.cuda.FloatTensor"


def test_the_npu_goes_through_the_same_door(monkeypatch):
    calls = []
    names = ("manual_seed", "get_rng_state", "set_rng_state", "synchronize")
    npu = types.SimpleNamespace(current_device=lambda: 1, **{n: lambda *a, n=n: calls.append((n, *a)) for n in names})
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.setattr(Device, "current_device", lambda self: torch.device("meta"))  # a device every torch has
    cuda_shim.install(Device("npu"))
    try:
        random = importlib.import_module("megatron.core.tensor_parallel.random")
        assert torch.cuda.current_device().type == "meta"
        assert torch.zeros(1, device="cuda").device.type == "meta"
        torch.cuda.manual_seed(5)
        torch.cuda.synchronize()
        random._set_cuda_rng_state("state", graph_safe=False)
        random._get_cuda_rng_state(graph_safe=False)
        assert random.logging is importlib.import_module("logging")
    finally:
        cuda_shim.uninstall()
    assert calls == [("manual_seed", 5), ("synchronize",), ("set_rng_state", "state"), ("get_rng_state",)]


def test_nothing_else_in_the_package_patches_torch_or_megatron():
    """The rule of the table: no setattr on, and no assignment to, an attribute of torch or megatron anywhere else."""
    package = Path(cuda_shim.__file__).parents[1]
    for file in package.rglob("*.py"):
        if file.name != "cuda_shim.py":
            for number, line in enumerate(file.read_text().splitlines(), 1):
                start = line.strip()
                assigns = (
                    start.startswith(("torch.", "megatron.")) and " = " in start and "(" not in start.split(" = ")[0]
                )
                assert not assigns, f"{file}:{number}: {line}"
                assert "setattr(torch" not in line, f"{file}:{number}: {line}"
                assert "setattr(megatron" not in line, f"{file}:{number}: {line}"
