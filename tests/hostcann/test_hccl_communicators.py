"""libhccl.so: making communicators, the order of calls, what is refused, and failures that reach every rank."""

import select
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.hostcann.conftest import PROGRAMS, Compile
from tests.hostcann.hccl_ranks import (
    MOVED,
    NOT_SUPPORT,
    OPS,
    PARA,
    PTR,
    REDUCED,
    REMOTE,
    STREAM_FAILED,
    STREAM_REMOTE,
    STREAM_TIMEOUT,
    SUSPENDING,
    TIMEOUT,
    Rank,
    connect,
    processes,
    segments,
    together,
)

FP32 = MOVED[torch.float32]
SUM = f"{FP32} {OPS['sum']}"


@pytest.fixture(scope="module")
def program(compile_program: Compile) -> Path:
    return compile_program(PROGRAMS / "hccl_rank.cpp", "hccl", "ascendcl")


def load_all(ranks: list[Rank], name: str, count: int = 4) -> None:
    """Rank r's buffer: r + 1, `count` times, in float32."""
    for r, rank in enumerate(ranks):
        rank.load(name, torch.full((count,), r + 1.0))


def expect_failure(ranks: list[Rank], stream_code: int, code: int, *words: str, stream: str = "s") -> None:
    """Every rank: the stream, the communicator and its next call say the same, and stderr said it once."""
    for rank in ranks:
        answer = rank.call("synchronize", stream)
        assert answer.code == stream_code
        assert all(word in answer.text for word in words), answer
        assert rank.call("async c").text.split()[0] == str(code)
        refused = rank.call("Barrier c", stream)
        assert refused.code == code
        assert all(word in refused.text for word in words), refused
        assert rank.stderr().count("HCCL communicator") == 1


def test_communicators_know_their_place_and_name(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        root = ranks[1].call("root").text  # any process may make it
        calls = [("init_named c", root, 2, 1 - r, "the_name") for r in range(2)]
        assert together(ranks, calls) == [(0, "")] * 2
        for r, rank in enumerate(ranks):
            assert rank.call("place c") == (0, f"{1 - r}/2")
            assert rank.call("name c") == (0, "the_name")
            assert rank.call("async c") == (0, "0 no error")
            assert rank.call("destroy c").code == 0
            assert rank.call("destroy c").code == PARA  # once
            assert rank.call("Barrier c s").code == PARA
            assert rank.call("Barrier nothing s").code == PTR
        assert [rank.end() for rank in ranks] == [0, 0]
    assert segments(ranks) == set()


def test_a_process_may_hold_every_rank(program: Path, tmp_path: Path):
    with processes(program, 1, tmp_path) as [rank]:
        assert rank.call("init_all 3,0,5") == (0, "")
        for each in range(3):
            rank.call("stream", f"s{each}")
            rank.load(f"b{each}", torch.full((4,), each + 1.0))
            assert rank.call("place", f"all{each}") == (0, f"{each}/3")
            assert rank.call("AllReduce", f"all{each}", f"s{each}", f"b{each} b{each} 4", SUM) == (0, "")
        for each in range(3):
            assert rank.call("synchronize", f"s{each}") == (0, "")
            assert rank.save(f"b{each}", torch.zeros(4)).tolist() == [6.0] * 4
        refused = rank.call("init_all 1,1")
        assert (refused.code, "ranks 0 and 1 are both on device 1" in refused.text) == (PARA, True)
        assert rank.call("init_all 7,8").code == PARA  # the default is 8 devices


def test_sub_communicators(program: Path, tmp_path: Path):
    with processes(program, 3, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b")
        # Ranks 2 and 0, in this order; rank 1 says that it is not in it.
        calls = [("sub d c 7 1 2,0"), ("sub d c", 0xFFFFFFFF, 0), ("sub d c 7 0 2,0")]
        answers = together(ranks, [(call,) if isinstance(call, str) else call for call in calls])
        assert answers == [(0, "made"), (0, "null"), (0, "made")]
        assert ranks[0].call("place d") == (0, "1/2")
        for rank in (ranks[0], ranks[2]):
            assert rank.call("Broadcast d s b 4", FP32, 0) == (0, "")
        for rank in (ranks[0], ranks[2]):
            assert rank.call("synchronize s") == (0, "")
            assert rank.save("b", torch.zeros(4)).tolist() == [3.0] * 4
        assert ranks[0].call("sub e c 7 1 2,0").code == PARA  # the id is used
        assert ranks[0].call("sub e c 8 0 2,0").code == PARA  # that is rank 2
        assert ranks[0].call("sub e c 8 0 0,3").code == PARA
        assert ranks[0].call("sub e c 8 0 0,0").code == PARA
        assert ranks[0].call("sub e d 8 1 0,1").code == NOT_SUPPORT  # of a sub-communicator
        # Ranks that mean different ranks find out.
        answers = together(ranks[:2], [("sub e c 9 0 0,1",), ("sub e c 9 1 2,1",)])
        assert {answer.code for answer in answers} == {PARA}
    assert segments(ranks) == set()


def test_communicators_on_their_own_streams_may_be_used_in_any_order(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks, "c")
        connect(ranks, "d")
        load_all(ranks, "b")
        load_all(ranks, "e")
        for rank in ranks:
            rank.call("stream t")
        orders = [[("c", "s", "b"), ("d", "t", "e")], [("d", "t", "e"), ("c", "s", "b")]]
        for rank, order in zip(ranks, orders, strict=True):
            for comm, stream, buffer in order:
                assert rank.call("AllReduce", comm, stream, buffer, buffer, 4, SUM) == (0, "")
        for rank in ranks:
            for stream, buffer in (("s", "b"), ("t", "e")):
                assert rank.call("synchronize", stream) == (0, "")
                assert rank.save(buffer, torch.zeros(4)).tolist() == [3.0] * 4


def test_one_communicator_on_two_streams_keeps_the_order_of_the_calls(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b", 100_000)
        for rank in ranks:
            rank.call("stream t")
        for turn in range(40):
            for r, rank in enumerate(ranks):
                # The ranks use the streams differently; only the order of the calls pairs them.
                stream = "st"[(turn >> r) & 1]
                count = 100_000 if turn % 2 == 0 else 1
                assert rank.call("Broadcast c", stream, "b", count, FP32, turn % 2) == (0, "")
        for rank in ranks:
            for stream in "st":
                assert rank.call("synchronize", stream) == (0, ""), rank.stderr()


def test_sends_on_another_stream_pass_a_collective_that_waits(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b", 300_000)
        for rank in ranks:
            rank.call("stream t")
        assert ranks[0].call("Barrier c s") == (0, "")  # rank 1 comes last
        assert ranks[0].call("Send c t b", 300_000, FP32, 1) == (0, "")
        assert ranks[1].call("Recv c t b", 300_000, FP32, 0) == (0, "")
        for rank in ranks:
            assert rank.call("synchronize t") == (0, "")
        assert ranks[1].save("b", torch.zeros(300_000)).unique().tolist() == [1.0]
        assert ranks[1].call("Barrier c s") == (0, "")
        assert [rank.call("synchronize s") for rank in ranks] == [(0, "")] * 2


def test_a_send_waits_for_its_receiver(program: Path, tmp_path: Path):
    """Also one that a buffer between them could hold: a program that relies on such a buffer hangs on the cards."""
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b")
        assert ranks[0].call("Send c s b 1", FP32, 1) == (0, "")
        ranks[0].ask("synchronize s")
        assert select.select([ranks[0].process.stdout], [], [], 0.3)[0] == []
        ranks[1].done("Recv c s b 1", FP32, 0)
        assert ranks[0].answer() == (0, "")


MISMATCHES = {
    "count": (f"AllReduce c s b b 4 {SUM}", f"AllReduce c s b b 3 {SUM}", "count=4", "count=3"),
    "data type": (f"AllReduce c s b b 2 {SUM}", f"AllReduce c s b b 2 {REDUCED[torch.int32]} 0", "fp32", "int32"),
    "reduction": (f"AllReduce c s b b 4 {SUM}", f"AllReduce c s b b 4 {FP32} {OPS['max']}", "op=sum", "op=max"),
    "root": (f"Broadcast c s b 4 {FP32} 0", f"Broadcast c s b 4 {FP32} 1", "root=0", "root=1"),
    "function": (f"Broadcast c s b 4 {FP32} 0", "Barrier c s", "HcclBroadcast(count=4", "HcclBarrier()"),
    "uneven count": (
        f"AlltoAllV c s b o {FP32} 1,1,1 0,1,2 1,1,1 0,1,2",
        f"AlltoAllV c s b o {FP32} 1,1,1 0,1,2 2,1,1 0,2,3",
        "count=1",
        "count=2",
    ),
    "message": (f"Send c s b 4 {FP32} 1", f"Recv c s b 3 {FP32} 0", "count=4", "count=3"),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_ranks_that_do_not_agree_all_learn_it(program: Path, tmp_path: Path, what: str):
    first, other, *words = MISMATCHES[what]
    with processes(program, 3, tmp_path) as ranks:
        connect(ranks)
        for name in "bo":
            load_all(ranks, name, 64)
        third = "Barrier c s" if what == "message" else first
        # The one that disagrees comes last: once it has, a call may be refused at once.
        for rank, call in ((ranks[2], third), (ranks[0], first), (ranks[1], other)):
            assert rank.call(call) == (0, "")
        expect_failure(ranks, STREAM_FAILED, PARA, *words, "(process ")


def test_a_killed_rank_fails_the_others_at_once(program: Path, tmp_path: Path):
    with processes(program, 3, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b", 2_000_000)
        for rank in ranks[:2]:
            assert rank.call("AllReduce c s b b 2000000", SUM) == (0, "")
        ranks[2].process.send_signal(signal.SIGKILL)  # and not collected: a zombie is dead, too
        start = time.monotonic()
        expect_failure(ranks[:2], STREAM_REMOTE, REMOTE, f"rank 2 (process {ranks[2].process.pid}) has died")
        assert time.monotonic() - start < 10
        assert segments(ranks) == set()


def test_a_rank_killed_in_the_middle_fails_the_others(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b", 8_000_000)
        for _ in range(20):
            for rank in ranks:
                assert rank.call("AllReduce c s b b 8000000", SUM) == (0, "")
        time.sleep(0.05)
        ranks[1].process.send_signal(signal.SIGKILL)
        expect_failure(ranks[:1], STREAM_REMOTE, REMOTE, "rank 1", "has died")


def test_a_rank_that_leaves_fails_who_needs_it(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        assert ranks[0].call("Barrier c s") == (0, "")
        assert ranks[1].call("destroy c").code == 0
        expect_failure(ranks[:1], STREAM_REMOTE, REMOTE, "rank 1", "has destroyed the communicator")


def test_destroying_a_communicator_lets_its_collectives_complete(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        load_all(ranks, "b")
        assert ranks[0].call("AllReduce c s b b 4", SUM) == (0, "")
        assert ranks[0].call("destroy c").code == 0
        ranks[1].done("AllReduce c s b b 4", SUM)
        assert ranks[0].call("synchronize s") == (0, "")
        assert ranks[0].save("b", torch.zeros(4)).tolist() == [3.0] * 4


def test_a_rank_that_does_not_call_is_waited_for_so_long(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path, HCCL_EXEC_TIMEOUT="1") as ranks:
        connect(ranks)
        assert ranks[0].call("Barrier c s") == (0, "")
        words = ("HcclBarrier", "rank 0", "waited 1 s (HCCL_EXEC_TIMEOUT) for rank 1")
        start = time.monotonic()
        answer = ranks[0].call("synchronize s")
        assert (answer.code, all(word in answer.text for word in words)) == (STREAM_TIMEOUT, True), answer
        assert 0.9 < time.monotonic() - start < 10
        # The other rank, once it comes, and the first, once more.
        for rank in ranks:
            refused = rank.call("Barrier c s")
            assert (refused.code, all(word in refused.text for word in words)) == (TIMEOUT, True), refused


def test_a_rank_that_does_not_connect_is_waited_for_so_long(program: Path, tmp_path: Path):
    with processes(program, 3, tmp_path, HCCL_CONNECT_TIMEOUT="1") as ranks:
        root = ranks[0].call("root").text
        answers = together(ranks[::2], [("init c", root, 3, r) for r in (0, 2)])
        for answer in answers:
            assert answer.code == TIMEOUT
            assert "rank 1 of 3 did not come within 1 s (HCCL_CONNECT_TIMEOUT)" in answer.text
        assert segments(ranks) == set()


def test_a_rank_killed_while_connecting_fails_the_others(program: Path, tmp_path: Path):
    with processes(program, 3, tmp_path) as ranks:
        root = ranks[0].call("root").text
        for r in (0, 1):
            ranks[r].ask("init c", root, 3, r)
        while not segments(ranks):
            time.sleep(0.01)
        time.sleep(0.2)
        ranks[1].process.send_signal(signal.SIGKILL)
        answer = ranks[0].answer()
        assert answer.code == REMOTE
        assert "rank 1" in answer.text
        assert "has died" in answer.text
        assert segments(ranks) == set()


def test_what_a_crash_of_all_ranks_left_is_removed_and_nothing_else(program: Path, tmp_path: Path):
    with processes(program, 3, tmp_path) as ranks:
        root = ranks[0].call("root").text
        ranks[0].ask("init c", root, 3, 0)
        while root not in segments(ranks):
            time.sleep(0.01)
        time.sleep(0.2)
        ranks[1].call("root")  # looks for left-overs, and this is none
        assert segments(ranks) == {root}
        ranks[0].process.send_signal(signal.SIGKILL)
        ranks[0].process.wait()
        ranks[1].call("root")
        assert segments(ranks) == set()


def test_ranks_that_count_differently_all_learn_it(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        root = ranks[0].call("root").text
        answers = together(ranks, [("init c", root, 2, 0), ("init c", root, 3, 1)])
        assert {answer.code for answer in answers} == {PARA}
        assert all("nRanks=2" in answer.text and "nRanks=3" in answer.text for answer in answers)
        root = ranks[0].call("root").text
        answers = together(ranks, [("init c", root, 2, 0)] * 2)
        assert {answer.code for answer in answers} == {PARA}
        assert all("rank=0 is taken" in answer.text for answer in answers)
        assert segments(ranks) == set()


def test_two_ranks_on_one_device_are_refused(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        assert ranks[1].call("device 0").code == 0
        root = ranks[0].call("root").text
        answers = together(ranks, [("init c", root, 2, r) for r in range(2)])
        assert {answer.code for answer in answers} == {PARA}
        assert all("ranks 0 and 1 are both on device 0" in answer.text for answer in answers)


REFUSALS = [
    (f"AllReduce c s b b 4 {REDUCED[torch.int16]} {OPS['prod']}", NOT_SUPPORT, "int16 has no reduction op=prod"),
    (f"AllReduce c s b b 4 {REDUCED[torch.bfloat16]} {OPS['prod']}", NOT_SUPPORT, "bfp16 has no reduction op=prod"),
    (f"AllReduce c s b b 2 {MOVED[torch.float64]} 0", NOT_SUPPORT, "fp64 has no reduction op=sum"),
    (f"ReduceScatter c s b b 2 {MOVED[torch.uint8]} 0", NOT_SUPPORT, "uint8 has no reduction op=sum"),
    (f"AllReduce c s b b 2 {FP32} 4", NOT_SUPPORT, "op=4 must be sum, prod, max or min"),
    ("AllGather c s b b 0 15", NOT_SUPPORT, "dataType=15"),
    ("AllGather c s b b 0 12", NOT_SUPPORT, "dataType=12 (int128)"),
    (f"AllReduce c s b b 5 {SUM}", PARA, "sendBuf: its 20 bytes do not lie within one block of device memory"),
    (f"AllReduce c s b host 4 {SUM}", PARA, "recvBuf: its 16 bytes do not lie"),
    (f"AllReduce c s null b 4 {SUM}", PTR, "sendBuf is null"),
    (f"AllReduce c s b b {1 << 35} {SUM}", PARA, "count=34359738368 is above 34359738367 elements"),
    (f"AllReduce c none b b 4 {SUM}", PTR, "stream is null"),
    (f"Broadcast c s b 4 {FP32} 1", PARA, "root=1 must be below the 1 ranks"),
    (f"Send c s b 4 {FP32} 1", PARA, "destRank=1 must be below the 1 ranks"),
    (f"Recv c s b 4 {FP32} 0", PARA, "srcRank=0 is this rank itself"),
    (f"AlltoAll c s b b 4 {FP32}", PARA, "sendBuf and recvBuf must not be the same"),
    (f"AlltoAllV c s b o {FP32} 4 0 3 0", PARA, "sends 4 elements to itself and receives 3"),
    (f"AlltoAllVC c s b o {FP32} {1 << 63}", PARA, "count=9223372036854775808 is above"),
    (f"ReduceScatterV c s b o 3 {SUM} 4 0", PARA, "recvCount=3 is not sendCounts[0]=4"),
    (f"AllGatherV c s b o 3 {FP32} 4 0", PARA, "sendCount=3 is not"),
    (f"BatchSendRecv c s 0:b:4:{FP32}:0", PARA, "what this rank sends to itself"),
    (f"BatchSendRecv c s 2:b:4:{FP32}:0", PARA, "sendRecvInfo[0].sendRecvType=2 must be 0 or 1"),
    (f"BatchSendRecv c s 0:b:4:{FP32}:0 0:b:4:{FP32}:0", PARA, "sendRecvInfo[1] repeats"),
    ("init d nonsense 1 0", PARA, "rootInfo is not from HcclGetRootInfo"),
    ("init d ROOT 0 0", PARA, "nRanks=0 must be from 1 to 8"),
    ("init d ROOT 9 0", PARA, "nRanks=9 must be from 1 to 8"),
    ("init d ROOT 2 2", PARA, "rank=2 must be below nRanks=2"),
]


def test_arguments_that_break_a_rule_are_refused_by_name(program: Path, tmp_path: Path):
    with processes(program, 1, tmp_path) as ranks:
        connect(ranks)
        for name in "bo":
            load_all(ranks, name)
        root = ranks[0].call("root").text
        for call, code, words in REFUSALS:
            answer = ranks[0].call(call.replace("ROOT", root))
            assert answer.code == code, (call, answer)
            assert words in answer.text, (call, answer)
        # None of them has harmed the communicator, and a batch may hold a message to the rank itself.
        ranks[0].load("b", torch.tensor([1.0, 2.0, 3.0, 4.0]))
        ranks[0].done(f"BatchSendRecv c s 0:b:4:{FP32}:0 1:o:4:{FP32}:0")
        ranks[0].done("AllReduce c s o o 4", SUM)
        assert ranks[0].save("o", torch.zeros(4)).tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HCCL_EXEC_TIMEOUT", "-1"), ("HCCL_EXEC_TIMEOUT", "10s"), ("HCCL_CONNECT_TIMEOUT", "0")],
)
def test_a_timeout_out_of_range_is_refused(program: Path, tmp_path: Path, variable: str, value: str):
    with processes(program, 1, tmp_path, **{variable: value}) as [rank]:
        answer = rank.call("init c", rank.call("root").text, 1, 0)
        assert answer.code == PARA
        assert f"{variable}={value} must be a number of seconds from" in answer.text


def test_a_stream_destroyed_by_force_gives_up_its_collective(program: Path, tmp_path: Path):
    with processes(program, 2, tmp_path) as ranks:
        connect(ranks)
        assert ranks[0].call("stream t") == (0, "")
        assert ranks[0].call("Barrier c t") == (0, "")
        time.sleep(0.2)  # the collective has begun to wait
        start = time.monotonic()
        assert ranks[0].call("destroy_stream t").code == 0
        refused = ranks[1].call("Barrier c s")
        while refused.code == 0:
            assert time.monotonic() - start < 10
            refused = ranks[1].call("Barrier c s")
        assert refused.code == SUSPENDING
        assert "rank 0" in refused.text
        assert "has destroyed the stream" in refused.text
