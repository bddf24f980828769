"""Processes that are the ranks of HCCL communicators: programs/hccl_rank.cpp, told what to call line by line."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tests.hostcann.conftest import CLEAN

# Values of HcclDataType; the types of torch that a reduction takes, and those that are only moved.
REDUCED = {
    torch.int8: 0,
    torch.int16: 1,
    torch.int32: 2,
    torch.float16: 3,
    torch.float32: 4,
    torch.int64: 5,
    torch.bfloat16: 11,
}
MOVED = REDUCED | {torch.uint64: 6, torch.uint8: 7, torch.uint16: 8, torch.uint32: 9, torch.float64: 10}
OPS = {"sum": 0, "prod": 1, "max": 2, "min": 3}  # values of HcclReduceOp

PARA, PTR, NOT_SUPPORT, TIMEOUT, REMOTE, SUSPENDING = 1, 2, 5, 9, 21, 22  # values of HcclResult
# What synchronising with a stream whose collective failed returns.
STREAM_FAILED, STREAM_TIMEOUT, STREAM_REMOTE = 507000, 507048, 507057

# A rank that is waited for in vain shall fail its test in seconds, not in half an hour.
HANGS = {"HCCL_CONNECT_TIMEOUT": "30", "HCCL_EXEC_TIMEOUT": "30"}


class Answer(NamedTuple):
    code: int
    text: str


class Rank:
    """A process with device `number` set and a stream `s`."""

    def __init__(self, program: Path, number: int, folder: Path, variables: dict[str, str]):
        self.number, self.folder = number, folder / f"rank{number}"
        self.folder.mkdir(exist_ok=True)
        self.roots: list[str] = []
        self.errors = (self.folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=CLEAN | HANGS | variables,
            text=True,
            bufsize=1,
        )
        assert self.call("device", number).code == 0
        assert self.call("stream", "s").code == 0

    def ask(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")

    def answer(self) -> Answer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"rank {self.number} has ended: {self.stderr()}"
        code, _, text = line.rstrip("\n").partition(" ")
        return Answer(int(code), text)

    def call(self, *words: object) -> Answer:
        self.ask(*words)
        answer = self.answer()
        if words == ("root",):
            self.roots.append(answer.text)
        return answer

    def done(self, *words: object) -> None:
        """Call, and synchronise with stream `s`; both succeed."""
        assert self.call(*words) == (0, ""), words
        assert self.call("synchronize", "s") == (0, "")

    def load(self, name: str, tensor: Tensor) -> None:
        path = self.folder / name
        path.write_bytes(bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()))
        assert self.call("load", name, path) == (0, "")

    def save(self, name: str, like: Tensor) -> Tensor:
        path = self.folder / f"{name}.out"
        assert self.call("save", name, path) == (0, "")
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8).view(like.dtype).reshape(like.shape)

    def stderr(self) -> str:
        self.errors.flush()
        return (self.folder / "stderr").read_text()

    def end(self) -> int:
        """Let the program end by itself; its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=20)


def together(ranks: Sequence[Rank], calls: Sequence[Sequence[object]]) -> list[Answer]:
    """calls[r] on rank r, all at once: for calls that wait for each other."""
    for rank, call in zip(ranks, calls, strict=True):
        rank.ask(*call)
    return [rank.answer() for rank in ranks]


def connect(ranks: Sequence[Rank], name: str = "c") -> None:
    """A communicator of these processes in this order."""
    root = ranks[0].call("root").text
    answers = together(ranks, [("init", name, root, len(ranks), index) for index in range(len(ranks))])
    assert answers == [(0, "")] * len(ranks)


@contextmanager
def processes(program: Path, count: int, folder: Path, **variables: str) -> Iterator[list[Rank]]:
    """`count` processes, not yet connected; killed on the way out."""
    ranks: list[Rank] = []
    try:
        for number in range(count):
            ranks.append(Rank(program, number, folder, variables))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
            for pipe in (rank.process.stdin, rank.process.stdout, rank.errors):
                assert pipe is not None
                pipe.close()


def segments(ranks: Sequence[Rank]) -> set[str]:
    """Names in shared memory of communicators whose root info these ranks made, and of their sub-communicators."""
    roots = tuple(root for rank in ranks for root in rank.roots)
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(roots)}
