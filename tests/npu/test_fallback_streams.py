"""A kernel of the host comes after what its stream still has to do, and hears of what went wrong there."""

import ctypes
import faulthandler
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

ACL_EVENT_SYNC = 1
DEVICE_TO_DEVICE = 3
ACL = ctypes.CDLL("libascendcl.so")


def acl(function: str, *arguments: object) -> None:
    code = getattr(ACL, function)(*arguments)
    assert code == 0, f"{function}: {code}"


def handle(stream: torch.npu.Stream) -> ctypes.c_void_p:
    return ctypes.c_void_p(stream.npu_stream)


@contextmanager
def held_up(stream: torch.npu.Stream) -> Iterator[Callable[[], None]]:
    """The stream does nothing until what this yields is called, and a moment more; at the latest until the end."""
    event = ctypes.c_void_p()
    acl("aclrtCreateEventWithFlag", ctypes.byref(event), ACL_EVENT_SYNC)
    acl("aclrtStreamWaitEvent", handle(stream), event)

    def go_on() -> None:
        acl("aclrtSetDevice", stream.device_index)
        acl("aclrtRecordEvent", event, None)  # on the thread's default stream

    timer = threading.Timer(0.1, go_on)
    faulthandler.dump_traceback_later(120, exit=True)  # who waits with the interpreter's lock waits for ever
    try:
        yield timer.start
    finally:
        if timer.ident is None:
            timer.start()
        timer.join()
        stream.synchronize()
        acl("aclrtDestroyEvent", event)
        faulthandler.cancel_dump_traceback_later()


def queue_copy(to: torch.Tensor, source: torch.Tensor, stream: torch.npu.Stream) -> None:
    size = ctypes.c_size_t(source.nbytes)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (to, source)]
    acl("aclrtMemcpyAsync", pointers[0], size, pointers[1], size, DEVICE_TO_DEVICE, handle(stream))


def peek(tensor: torch.Tensor) -> float:
    """The first element, at once: what a kernel reads that does not wait."""
    return ctypes.c_float.from_address(tensor.data_ptr()).value


READS = {
    "kernel": lambda x: (x + 0).cpu()[0],
    "to the host": lambda x: x.cpu()[0],
    "to the host, non-blocking": lambda x: x.to("cpu", non_blocking=True)[0],
    "to another device": lambda x: x.to("npu:1").cpu()[0],
    "number": lambda x: x[0].item(),
    "foreach": lambda x: torch._foreach_add([x], 0.0)[0].cpu()[0],
    "what torch_npu itself takes to the CPU": lambda x: torch.linalg.inv(x.diag()).cpu()[0, 0] ** -1,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_comes_after_what_is_on_the_stream(read):
    x, new = torch.ones(4, device="npu"), torch.full((4,), 2.0, device="npu")
    stream = torch.npu.current_stream()
    with held_up(stream) as go_on:
        queue_copy(x, new, stream)
        assert peek(x) == 1.0  # the copy has not happened: who does not wait reads the old value
        go_on()
        assert read(x) == 2.0


def test_a_read_waits_for_another_stream_that_its_own_waits_for():
    x, new = torch.ones(4, device="npu"), torch.full((4,), 2.0, device="npu")
    side = torch.npu.Stream()
    with held_up(side) as go_on:
        queue_copy(x, new, side)
        torch.npu.current_stream().wait_stream(side)
        assert peek(x) == 1.0
        go_on()
        assert (x + 0).tolist() == [2.0] * 4


def test_a_read_does_not_wait_for_other_streams():
    x = torch.ones(4, device="npu")
    side = torch.npu.Stream()
    with held_up(side):
        queue_copy(x, torch.full((4,), 2.0, device="npu"), side)
        assert (x + 0).tolist() == [1.0] * 4


def test_a_write_comes_after_what_is_on_the_stream():
    x, y = torch.ones(4, device="npu"), torch.zeros(4, device="npu")
    stream = torch.npu.current_stream()
    with held_up(stream) as go_on:
        queue_copy(y, x, stream)
        go_on()
        x.copy_(torch.full((4,), 3.0), non_blocking=True)
    assert (x.tolist(), y.tolist()) == ([3.0] * 4, [1.0] * 4)


def test_work_on_the_stream_comes_after_a_kernel():
    x, y = torch.ones(4, device="npu"), torch.zeros(4, device="npu")
    stream = torch.npu.Stream()
    with torch.npu.stream(stream):
        x.add_(1)
        queue_copy(y, x, stream)
        assert (y + 0).tolist() == [2.0] * 4


def test_the_stream_of_the_tensors_device_counts():
    x = torch.ones(4, device="npu:1")
    new = torch.full((4,), 2.0, device="npu:1")
    stream = torch.npu.current_stream(1)
    assert torch.npu.current_device() == 0
    with torch.npu.device(1), held_up(stream) as go_on:
        queue_copy(x, new, stream)
        with torch.npu.device(0):
            assert peek(x) == 1.0
            go_on()
            assert (x + 0).tolist() == [2.0] * 4


def test_a_view_waits_for_nothing():
    x = torch.ones(2, 4, device="npu")
    stream = torch.npu.current_stream()
    with held_up(stream):
        event = torch.npu.Event()
        event.record()
        for view in (x.t(), x[0], x.unbind(1)[2], x.expand(3, 2, 4), x.diagonal(), x.flatten(), x.narrow(1, 1, 2)):
            assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        assert not event.query()


def test_who_waits_leaves_the_interpreter_to_others():
    """The thread that lets the stream go on is one of Python's. A storage's methods keep the interpreter's lock."""
    x, new = torch.ones(4, device="npu"), torch.full((4,), 2.0, device="npu")
    y = torch.zeros(4, device="npu")
    stream = torch.npu.current_stream()
    with held_up(stream) as go_on:
        queue_copy(x, new, stream)
        go_on()
        y.untyped_storage().copy_(x.untyped_storage())
        assert y.tolist() == [2.0] * 4


FAILING_STREAM = """
import ctypes, torch
acl = ctypes.CDLL("libascendcl.so")
x = torch.ones(3, device="npu")
event = ctypes.c_void_p()
assert acl.aclrtSetOpWaitTimeout(1) == 0
assert acl.aclrtCreateEventWithFlag(ctypes.byref(event), 1) == 0
assert acl.aclrtStreamWaitEvent(ctypes.c_void_p(torch.npu.current_stream().npu_stream), event) == 0
x.view(3, 1).t()
try:
    (x + 1).tolist()
except RuntimeError as error:
    print("raised:", error)
"""


def test_a_failure_of_the_stream_is_an_error_of_the_next_kernel():
    result = subprocess.run([sys.executable, "-c", FAILING_STREAM], capture_output=True, text=True, timeout=120)
    assert "raised:" in result.stdout, result.stderr
    assert "107019" in result.stdout or "107020" in result.stdout
