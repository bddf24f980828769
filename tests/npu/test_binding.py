"""The binding of the operator to aclnn: streams, devices, memory and errors."""

import ctypes
import json
import os
from pathlib import Path

import pytest
import torch
import torch_npu

from ascendspeed.ops import flash_attention_score

runtime = ctypes.CDLL("libascendcl.so")


@pytest.fixture(autouse=True)
def _unpoisoned_empty(_poisoned_empty, monkeypatch):
    """Filling new memory is an operator of the fallback, which waits for the device."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)


def example(device: str = "npu", length: int = 64, **options) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = (torch.randn(1, 2, length, 32, generator=generator) for _ in range(3))
    return [tensor.to(device, **options).requires_grad_() for tensor in draw]


def forward_and_backward(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    out = flash_attention_score(*tensors, 2, "BNSD", scale=0.2)
    return [out.attention_out, *torch.autograd.grad(out.attention_out, tensors, torch.ones_like(out.attention_out))]


EXPECTED = [tensor.detach() for tensor in forward_and_backward(example("cpu"))]


def is_expected(results: list[torch.Tensor]) -> bool:
    return all(torch.equal(result.detach().cpu(), expected) for result, expected in zip(results, EXPECTED, strict=True))


class Held:
    """A stream that goes no further until it is released: it waits for an event that nobody has recorded."""

    def __init__(self, stream: "torch.npu.Stream") -> None:
        self.event = ctypes.c_void_p()
        assert runtime.aclrtCreateEvent(ctypes.byref(self.event)) == 0
        assert runtime.aclrtStreamWaitEvent(ctypes.c_void_p(stream.npu_stream), self.event) == 0

    def release(self) -> None:
        other = torch.npu.Stream()
        assert runtime.aclrtRecordEvent(self.event, ctypes.c_void_p(other.npu_stream)) == 0
        other.synchronize()


def test_a_call_waits_for_nothing_and_runs_in_the_order_of_its_stream():
    tensors, dy = example(), torch.ones(1, 2, 64, 32, device="npu")
    stream = torch.npu.Stream()
    torch.npu.synchronize()
    with torch.npu.stream(stream):
        held = Held(stream)
        # Were anything here to wait for the device, it would wait for ever.
        out = flash_attention_score(*tensors, 2, "BNSD", scale=0.2)
        gradients = torch.autograd.grad(out.attention_out, tensors, dy)
        reached = torch.npu.Event()
        reached.record(stream)
        assert not reached.query()
        held.release()
        reached.synchronize()
    assert is_expected([out.attention_out, *gradients])


def test_a_call_runs_on_the_current_stream_only():
    tensors = example()
    held_stream, free = torch.npu.Stream(), torch.npu.Stream()
    torch.npu.synchronize()
    held = Held(held_stream)
    with torch.npu.stream(free):
        results = forward_and_backward(tensors)
        free.synchronize()
        assert is_expected(results)
    held.release()
    held_stream.synchronize()


def test_a_call_runs_on_the_device_of_its_tensors():
    assert torch.npu.current_device() == 0
    results = forward_and_backward(example("npu:1"))
    assert {result.device for result in results} == {torch.device("npu", 1)}
    assert torch.npu.current_device() == 0
    assert is_expected(results)


def test_workspace_comes_from_the_caching_allocator(trace):
    tensors = example(length=512)
    torch.npu.synchronize()
    torch.npu.reset_peak_memory_stats()
    before = torch.npu.memory_allocated()
    out = flash_attention_score(*tensors, 2, "BNSD")
    (record,) = trace.first_phases()
    assert record["workspace_size"] > 0
    assert torch.npu.memory_allocated() > before  # the outputs
    kept = torch.npu.memory_allocated() - before
    assert torch.npu.max_memory_allocated() - before >= kept + record["workspace_size"]
    del out
    assert torch.npu.memory_allocated() == before


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_calls_leak_nothing():
    tensors = example(length=8)

    def call(times: int) -> None:
        for index in range(times):
            forward_and_backward(tensors)
            if index % 50 == 0:  # what is queued takes memory too, more the slower the machine is
                torch.npu.synchronize()
        torch.npu.synchronize()

    call(5000)  # allocators, lists and caches have their size by then
    memory, resident = torch.npu.memory_allocated(), resident_bytes()
    call(5000)  # forward and backward: two calls each
    # Autograd's thread may still hold the last call's tensors; 512 bytes lost in each call would be 5 MB.
    assert torch.npu.memory_allocated() - memory < 1 << 16
    # A call has a dozen objects of 200 bytes and more: one of them lost each time is 2 MB.
    assert resident_bytes() - resident < 1 << 20


def test_a_call_before_torch_npu_is_imported_finds_its_kernels_later(run):
    source = """
import torch
from ascendspeed.ops import flash_attention_score
import ascendspeed_hostcann
ascendspeed_hostcann.install()
tensor = torch.ones(1, 1, 4, 8, device="npu")
print(flash_attention_score(tensor, tensor, tensor, 1, "BNSD").attention_out.sum().item())
"""
    result = run(source, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "32.0"


def test_an_installation_without_npu_kernels_says_so(run):
    source = """
import sys
import torch
from ascendspeed.ops import flash_attention_score
sys.modules["ascendspeed._npu"] = None
tensor = torch.ones(1, 1, 4, 8, device="npu")
flash_attention_score(tensor, tensor, tensor, 1, "BNSD")
"""
    result = run(source)
    assert "NotImplementedError: ascendspeed was built without its NPU kernels" in result.stderr
    assert "install it again where torch_npu is" in result.stderr


def test_a_learned_position_shift_is_refused_where_cann_promises_no_gradient():
    query, key, value = example()
    pse = torch.zeros(1, 2, 64, 64, device="npu", requires_grad=True)
    out = flash_attention_score(query, key, value, 2, "BNSD", pse=pse)
    with pytest.raises(NotImplementedError, match="pse has no gradient on an NPU; detach it"):
        out.attention_out.sum().backward()
    out = flash_attention_score(query, key, value, 2, "BNSD", pse=pse.detach())
    out.attention_out.sum().backward()


CALL = """
import torch
from ascendspeed.ops import flash_attention_score
def call():
    tensor = torch.ones(1, 1, 4, 8, device="npu")
    return flash_attention_score(tensor, tensor, tensor, 1, "BNSD").attention_out
def attempt(work):
    try:
        work()
        torch.npu.synchronize()
    except RuntimeError as error:
        return str(error)
    return "done"
"""


@pytest.mark.parametrize("queue", ["0", "1"])
@pytest.mark.parametrize(
    ("phase", "texts"),
    [
        ("first", ["aclnnFlashAttentionScoreV2GetWorkspaceSize returned 561103: ", "ASCENDSPEED_HOSTCANN_FAULT"]),
        ("second", ["aclnnFlashAttentionScoreV2", "361001", "ASCENDSPEED_HOSTCANN_FAULT"]),
        ("stream", ["507015"]),
    ],
)
def test_what_cann_returns_becomes_an_exception(run, queue, phase, texts):
    """Of the first phase at once, of the others at the next synchronisation at the latest."""
    source = CALL + "print(attempt(call)); print('message ends')"
    fault = f"aclnn:call=1,phase={phase},function=aclnnFlashAttentionScoreV2"
    result = run(source, ASCENDSPEED_HOSTCANN_FAULT=fault, TASK_QUEUE_ENABLE=queue)
    message = result.stdout.partition("message ends")[0]
    for text in texts:
        assert text in message, (message, result.stderr)


def test_a_refused_first_phase_leaves_the_next_call_alone(run):
    source = CALL + "print(attempt(call)); print('next:', attempt(call), call().sum().item())"
    fault = "aclnn:call=1,phase=first,function=aclnnFlashAttentionScoreV2"
    result = run(source, ASCENDSPEED_HOSTCANN_FAULT=fault)
    assert "next: done 32.0" in result.stdout, (result.stdout, result.stderr)


def test_no_memory_for_the_workspace_is_an_out_of_memory_error(run, tmp_path):
    """The plan that the first phase made is given up, the tensors are whole, and the next call works."""
    source = """
import torch
from ascendspeed.ops import flash_attention_score
# Small outputs, which fit beside value in what is cached, and a workspace of about 1 MiB, which does not.
query, key, value = (torch.ones(1, 1, 1024, dim, device="npu") for dim in (768, 768, 8))
filler = []
for size in ((1 << 20) + 1, 1 << 20):  # large blocks and small ones are cached apart
    try:
        while True:
            filler.append(torch.empty(size, dtype=torch.uint8, device="npu"))
    except torch.OutOfMemoryError:
        pass
try:
    flash_attention_score(query, key, value, 1, "BNSD")
    print("no error")
except torch.OutOfMemoryError as error:
    print("out of memory:", error)
filler.clear()
print(flash_attention_score(query, key, value, 1, "BNSD").attention_out.sum().item())
"""
    trace = tmp_path / "trace.jsonl"
    memory = str(64 << 20)
    result = run(source, ASCENDSPEED_HOSTCANN_MEMORY=memory, ASCENDSPEED_HOSTCANN_TRACE=str(trace))
    assert result.returncode == 0, result.stderr
    assert "out of memory: NPU out of memory" in result.stdout
    assert result.stdout.splitlines()[-1] == "8192.0"
    calls = [json.loads(line)["function"] for line in trace.read_text().splitlines()]
    calls = [name.removeprefix("aclnnFlashAttentionScoreV2") for name in calls if "FlashAttention" in name]
    assert calls == ["GetWorkspaceSize", "GetWorkspaceSize", ""]  # the first call has no second phase


def test_a_private_format_is_refused_by_name():
    tensor = torch_npu.empty_with_format((1, 2, 16, 16), dtype=torch.float16, device="npu", acl_format=29)
    plain = torch.zeros(1, 2, 16, 16, dtype=torch.float16, device="npu")
    with pytest.raises(ValueError, match=r"key: format 29 is private to the device.*\[161002\]"):
        flash_attention_score(plain, tensor, plain, 2, "BNSD")
