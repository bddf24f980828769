"""ASCENDSPEED_HOSTCANN_FAULT: each fault with its code and message, and the calls around it unharmed."""

import json
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.hostcann.calls import Programs
from tests.hostcann.conftest import PROGRAMS, Compile
from tests.hostcann.hccl_ranks import (
    MOVED,
    REMOTE,
    STREAM_REMOTE,
    STREAM_TIMEOUT,
    Rank,
    connect,
    processes,
)

VARIABLE = "ASCENDSPEED_HOSTCANN_FAULT"
FORWARD = ["forward first 0 ", "forward second 0 "]
NO_MEMORY = "malloc 207001 aclrtMalloc: size=64 is refused, asked for by "
FP32 = MOVED[torch.float32]


def run(programs: Programs, fault: str, *steps: str, **variables: str) -> list[str]:
    first, *lines = programs.run("faults", *steps, **{VARIABLE: fault}, **variables).splitlines()
    assert first == "init 0 "
    return lines


def failed(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.endswith(" 0 ")]


def told(function: str, fault: str, call: int, device: int, code: int) -> str:
    return f"{code} {function}: asked for by {VARIABLE} ({fault}): call {call} on device {device} [{code}]"


def test_a_first_phase_fails(programs: Programs):
    fault = "aclnn:call=2,phase=first"
    lines = run(programs, fault, *["forward", "out"] * 3, "sync")
    refused = told("aclnnFlashAttentionScoreGetWorkspaceSize", fault, 2, 0, 561103)
    assert lines == [*FORWARD, "written", f"forward first {refused}", "untouched", *FORWARD, "written", "sync 0 "]


def test_a_second_phase_fails(programs: Programs):
    fault = "aclnn:call=2,phase=second"
    lines = run(programs, fault, *["forward", "out"] * 3, "sync")
    refused = told("aclnnFlashAttentionScore", fault, 2, 0, 361001)
    assert lines[:3] == lines[6:9] == [*FORWARD, "written"]
    assert lines[3:6] == ["forward first 0 ", f"forward second {refused}", "untouched"]
    assert lines[9:] == ["sync 0 "]


def test_work_fails_on_its_stream(programs: Programs):
    """Both phases succeed. From then on the stream carries the code; work behind it runs, and other streams do not
    care."""
    fault = "aclnn:call=2,phase=stream"
    steps = ["forward", "out", "sync", "forward", "out", "sync", "forward", "out", "sync", "stream", "forward", "sync"]
    lines = run(programs, fault, *steps)
    failed = f"sync {told('aclnnFlashAttentionScore', fault, 2, 0, 507015)}"
    assert lines[:4] == [*FORWARD, "written", "sync 0 "]
    assert lines[4:8] == [*FORWARD, "untouched", failed]
    assert lines[8:12] == [*FORWARD, "written", failed]
    assert lines[12:] == [*FORWARD, "sync 0 "]


def test_a_function_is_counted_alone(programs: Programs):
    fault = "aclnn:call=2,phase=second,function=aclnnFlashAttentionScoreGrad"
    lines = run(programs, fault, "forward", "forward", "backward", "forward", "backward", "backward")
    refused = told("aclnnFlashAttentionScoreGrad", fault, 2, 0, 361001)
    assert failed(lines) == [f"backward second {refused}"]
    assert lines.index(f"backward second {refused}") == 9


@pytest.mark.parametrize("phase", ["first", "second", "stream"])
def test_a_device_is_counted_alone(programs: Programs, phase: str):
    fault = f"aclnn:call=2,phase={phase},device=1"
    steps = ["forward", "forward", "forward", "sync", "device=1", "forward", "sync", "device=0", "forward"]
    lines = run(programs, fault, *steps)
    assert failed(lines) == []
    lines = run(programs, fault, *steps, "device=1", "forward", "sync")
    (refused,) = failed(lines)
    assert refused.rpartition(" [")[0].endswith(f"({fault}): call 2 on device 1")


def test_without_a_device_each_one_counts(programs: Programs):
    lines = run(programs, "malloc:call=2", "malloc", "device=1", "malloc", "malloc", "device=0", "malloc", "malloc")
    assert [line.partition(" ")[2][:6] for line in lines] == ["0 ", "0 ", "207001", "207001", "0 "]
    assert "call 2 on device 1" in lines[2]
    assert "call 2 on device 0" in lines[3]


def test_only_calls_that_would_succeed_are_counted(programs: Programs):
    lines = run(programs, "aclnn:call=2,phase=second", "illegal", "illegal", "forward", "forward")
    assert lines[2:4] == FORWARD
    assert lines[5].startswith("forward second 361001 ")
    lines = run(programs, "malloc:call=2", "too much", "host", "malloc", "host", "malloc", "malloc")
    assert lines[0].startswith("too much 207001 ")
    assert VARIABLE not in lines[0]
    assert lines[1:4] == ["host 0 ", "malloc 0 ", "host 0 "]
    assert lines[4].startswith(NO_MEMORY)
    assert lines[5] == "malloc 0 "


@pytest.mark.parametrize(
    ("calls", "struck"),
    [("2", [2]), ("2-4", [2, 3, 4]), ("3-3", [3]), ("4-", [4, 5, 6]), ("1-", [1, 2, 3, 4, 5, 6]), ("7", [])],
)
def test_calls_are_one_a_range_or_all_that_follow(programs: Programs, calls: str, struck: list[int]):
    fault = f"malloc:call={calls}"
    lines = run(programs, fault, *["malloc"] * 6)
    memory = [
        f"{NO_MEMORY}{VARIABLE} ({fault}): call {call} on device 0 [207001]" if call in struck else "malloc 0 "
        for call in range(1, 7)
    ]
    assert lines == memory


def test_one_way_to_allocate_is_counted_alone(programs: Programs):
    lines = run(programs, "malloc:call=2,function=aclrtMallocAlign32", "malloc", "align32", "malloc", "align32")
    assert lines[:3] == ["malloc 0 ", "align32 0 ", "malloc 0 "]
    assert lines[3].startswith("align32 207001 aclrtMallocAlign32: size=64 is refused, asked for by")


def test_two_faults_count_for_themselves(programs: Programs):
    """The second call of all, and the second that is a backward: the fourth of all. Of two that strike one call, the
    first one written."""
    grad = "aclnn:call=2,phase=first,function=aclnnFlashAttentionScoreGrad"
    fault = f"aclnn:call=2,phase=first;{grad};aclnn:call=4,phase=first"
    lines = run(programs, fault, "forward", "forward", "backward", "backward", "forward")
    assert failed(lines) == [
        f"forward first {told('aclnnFlashAttentionScoreGetWorkspaceSize', 'aclnn:call=2,phase=first', 2, 0, 561103)}",
        f"backward first {told('aclnnFlashAttentionScoreGradGetWorkspaceSize', grad, 2, 0, 561103)}",
    ]
    assert lines[-2:] == FORWARD


def test_the_record_of_calls_has_the_failure(programs: Programs, tmp_path: Path):
    record = tmp_path / "calls.jsonl"
    run(programs, "aclnn:call=1,phase=second", "forward", ASCENDSPEED_HOSTCANN_TRACE=str(record))
    first, second = map(json.loads, record.read_text().splitlines())
    assert (first["status"], second["status"]) == (0, 361001)
    assert VARIABLE in second["message"]


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", '"": must begin with aclnn:, malloc: or hccl:'),
        ("aclnn", '"aclnn": must begin with'),
        ("nccl:call=1,die", '"nccl:call=1,die": must begin with'),
        (" malloc:call=1", '" malloc:call=1": must begin with'),
        ("malloc:call=1;", '"": must begin with'),
        ("malloc:call=1;malloc:call=0", '"malloc:call=0": call=0 must be a number from 1 on'),
        ("malloc:", '"" is not key=value'),
        ("malloc:device=0", "call=N is missing"),
        ("malloc:call", '"call" is not key=value'),
        ("malloc:call=", "call= must be"),
        ("malloc:call=-1", "call=-1 must be"),
        ("malloc:call=+1", "call=+1 must be"),
        ("malloc:call=3-2", "call=3-2 must be"),
        ("malloc:call=3-x", "call=3-x must be"),
        ("malloc:call=1 ", "call=1  must be"),
        ("malloc:call=99999999999999999999", "call=99999999999999999999 must be"),
        ("malloc:call=1,call=2", "call is there twice"),
        ("malloc:call=1,device=2", "device=2 must be below the 2 devices"),
        ("malloc:call=1,device=-1", "device=-1 must be"),
        ("malloc:call=1,size=3", "malloc has no size"),
        ("malloc:call=1,phase=first", "malloc has no phase"),
        ("malloc:call=1,function=malloc", "function=malloc must be the name of a function aclrtMalloc..."),
        ("aclnn:call=1", "aclnn needs phase="),
        ("aclnn:call=1,phase=third", "aclnn needs phase="),
        ("aclnn:call=1,phase=first,delay=1", "aclnn has no delay"),
        ("aclnn:call=1,phase=first,die", "aclnn has no die"),
        ("aclnn:call=1,phase=first,function=HcclSend", "function=HcclSend must be the name of a function aclnn..."),
        ("aclnn:call=1,phase=first,function=aclnnXGetWorkspaceSize", "without GetWorkspaceSize"),
        ("hccl:call=1", "hccl needs one of delay=SECONDS and die"),
        ("hccl:call=1,delay=1,die", "hccl needs one of"),
        ("hccl:call=1,die=1", '"die=1" is not key=value'),
        ("hccl:call=1,delay=0", "delay=0 must be a number of seconds above 0, at most 86400"),
        ("hccl:call=1,delay=-1", "delay=-1 must be"),
        ("hccl:call=1,delay=nan", "delay=nan must be"),
        ("hccl:call=1,delay=inf", "delay=inf must be"),
        ("hccl:call=1,delay=1s", "delay=1s must be"),
        ("hccl:call=1,die,phase=first", "hccl has no phase"),
    ],
)
def test_what_is_malformed_is_refused_by_name(programs: Programs, value: str, rule: str):
    (line,) = programs.run("faults", **{VARIABLE: value}, ASCENDSPEED_HOSTCANN_DEVICES="2").splitlines()
    assert line.startswith(f"init 100000 aclInit: {VARIABLE}={value} is malformed: ")
    assert rule in line


@pytest.fixture(scope="module")
def rank_program(compile_program: Compile) -> Path:
    return compile_program(PROGRAMS / "hccl_rank.cpp", "hccl", "ascendcl")


def all_reduce(ranks: list[Rank]) -> float:
    """On every rank, with the right result; how long rank 0 waited, in seconds."""
    for r, rank in enumerate(ranks):
        rank.load("b", torch.full((4,), r + 1.0))
    start = time.monotonic()
    for rank in ranks:
        assert rank.call("AllReduce c s b b 4", FP32, 0) == (0, "")
    assert ranks[0].call("synchronize s") == (0, "")
    waited = time.monotonic() - start
    for rank in ranks:
        assert rank.call("synchronize s") == (0, "")
        assert rank.save("b", torch.zeros(4)).tolist() == [3.0] * 4
    return waited


def said(rank: Rank) -> list[str]:
    return [line for line in rank.stderr().splitlines() if VARIABLE in line]


def test_a_collective_is_delayed(rank_program: Path, tmp_path: Path):
    """On its stream: the call itself returns, and the other rank waits."""
    fault = "hccl:call=2,delay=1.5,device=1"
    with processes(rank_program, 2, tmp_path, **{VARIABLE: fault}) as ranks:
        connect(ranks)
        all_reduce(ranks)
        assert [said(rank) for rank in ranks] == [[], []]
        assert all_reduce(ranks) > 1.4
        message = f"[host CANN] HcclAllReduce: asked for by {VARIABLE} ({fault}): call 2 on device 1"
        assert [said(rank) for rank in ranks] == [[], [message]]
        all_reduce(ranks)
        assert said(ranks[1]) == [message]


def test_a_delay_beyond_the_timeout_fails_every_rank(rank_program: Path, tmp_path: Path):
    fault = {VARIABLE: "hccl:call=1,delay=3600,device=1", "HCCL_EXEC_TIMEOUT": "1"}
    with processes(rank_program, 2, tmp_path, **fault) as ranks:
        connect(ranks)
        for rank in ranks:
            assert rank.call("Barrier c s") == (0, "")
        for rank in ranks:
            answer = rank.call("synchronize s")
            assert answer.code == STREAM_TIMEOUT
            assert "waited 1 s (HCCL_EXEC_TIMEOUT) for rank 1" in answer.text


def test_a_delayed_stream_can_be_destroyed_by_force(rank_program: Path, tmp_path: Path):
    with processes(rank_program, 1, tmp_path, **{VARIABLE: "hccl:call=1,delay=3600"}) as [rank]:
        connect([rank])
        assert rank.call("stream t") == (0, "")
        assert rank.call("Barrier c t") == (0, "")
        assert rank.call("destroy_stream t").code == 0


def test_a_rank_dies_in_a_collective(rank_program: Path, tmp_path: Path):
    with processes(rank_program, 2, tmp_path, **{VARIABLE: "hccl:call=2,die,device=1"}) as ranks:
        connect(ranks)
        all_reduce(ranks)
        for rank in ranks:
            rank.ask("Barrier c s")
        assert ranks[1].process.wait(timeout=20) == -signal.SIGKILL
        assert ranks[0].answer() == (0, "")
        answer = ranks[0].call("synchronize s")
        assert answer.code == STREAM_REMOTE
        assert f"rank 1 (process {ranks[1].process.pid}) has died" in answer.text
        assert ranks[0].call("Barrier c s").code == REMOTE
        assert len(said(ranks[1])) == 1


def test_communicators_of_a_device_count_together_and_functions_alone(rank_program: Path, tmp_path: Path):
    faults = "hccl:call=3,delay=0.1;hccl:call=1,delay=0.1,function=HcclSend;hccl:call=2,delay=0.1,function=HcclRecv"
    with processes(rank_program, 2, tmp_path, **{VARIABLE: faults}) as ranks:
        connect(ranks, "c")
        connect(ranks, "d")
        for rank in ranks:
            rank.load("b", torch.ones(4))
        for sender in (0, 1):
            ranks[sender].ask("Send c s b 4", FP32, 1 - sender)
            assert ranks[1 - sender].call("Recv c s b 4", FP32, sender) == (0, "")
            assert ranks[sender].answer() == (0, "")
        for comm in "dc":
            for rank in ranks:
                assert rank.call("Barrier", comm, "s") == (0, "")
        assert [rank.call("synchronize s") for rank in ranks] == [(0, "")] * 2
        struck = [[re.findall(r"(\w+): asked .*call (\d)", line) for line in said(rank)] for rank in ranks]
        assert struck == [[[("HcclSend", "1")], [("HcclBarrier", "3")]]] * 2
