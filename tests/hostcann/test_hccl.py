"""libhccl.so: every collective and data type over several processes, against the same computed here."""

import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.hostcann.conftest import PROGRAMS, Compile
from tests.hostcann.hccl_ranks import MOVED, OPS, REDUCED, Rank, connect, processes, segments

COMBINE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "prod": torch.mul,
    "max": torch.maximum,
    "min": torch.minimum,
}
REDUCTIONS = [
    (dtype, op)
    for dtype in REDUCED
    for op in OPS
    if not (op == "prod" and dtype in (torch.int16, torch.bfloat16))  # refused, below
]


@pytest.fixture(scope="module")
def program(compile_program: Compile) -> Path:
    return compile_program(PROGRAMS / "hccl_rank.cpp", "hccl", "ascendcl")


@pytest.fixture(scope="module", params=[2, 3, 4])
def ranks(
    program: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Rank]]:
    with processes(program, request.param, tmp_path_factory.mktemp("ranks")) as made:
        connect(made)
        yield made


def values(dtype: torch.dtype, *shape: int) -> Tensor:
    """Any bytes for integers; for the others all magnitudes, with NaN and infinities now and then."""
    if not dtype.is_floating_point:
        size = torch.empty((), dtype=dtype).element_size()
        return torch.randint(0, 256, (*shape, size), dtype=torch.uint8).view(dtype).squeeze(-1)
    tensor = torch.randn(shape, dtype=torch.float64) * torch.randn(shape, dtype=torch.float64).exp2()
    special = torch.rand(shape)
    tensor[special < 0.02] = float("nan")
    tensor[(special > 0.02) & (special < 0.04)] = float("inf")
    tensor[(special > 0.04) & (special < 0.05)] = float("-inf")
    return tensor.to(dtype)


def reduced(inputs: list[Tensor], op: str) -> Tensor:
    """Rank by rank in ascending order, each step rounded to the type."""
    total = inputs[0]
    for each in inputs[1:]:
        total = COMBINE[op](total, each)
    return total


def load_all(ranks: list[Rank], name: str, tensors: list[Tensor]) -> None:
    for rank, tensor in zip(ranks, tensors, strict=True):
        rank.load(name, tensor)


def finish(ranks: list[Rank]) -> None:
    for rank in ranks:
        assert rank.call("synchronize", "s") == (0, ""), rank.stderr()


def expect(got: Tensor, want: Tensor) -> None:
    if want.dtype.is_floating_point:
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
    else:
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize(("dtype", "op"), REDUCTIONS, ids=[f"{str(d)[6:]}-{o}" for d, o in REDUCTIONS])
def test_reductions(ranks: list[Rank], dtype: torch.dtype, op: str):
    n, count = len(ranks), 37
    inputs = [values(dtype, n * count) for _ in ranks]
    want, code = reduced(inputs, op), f"{REDUCED[dtype]} {OPS[op]}"
    load_all(ranks, "a", inputs)
    load_all(ranks, "whole", [torch.zeros_like(want)] * n)
    load_all(ranks, "root", [torch.zeros_like(want)] * n)
    load_all(ranks, "part", [torch.zeros(count, dtype=dtype)] * n)
    root = n - 1
    # Rank r gets r + 1 elements; element 5 on is where the blocks begin.
    counts = ",".join(str(r + 1) for r in range(n))
    offsets = ",".join(str(5 + 4 * r) for r in range(n))
    load_all(ranks, "v", [torch.zeros(r + 1, dtype=dtype) for r in range(n)])
    for r, rank in enumerate(ranks):
        assert rank.call("AllReduce c s a whole", n * count, code) == (0, "")
        receive = "root" if r == root else "null"  # only the root's is used
        assert rank.call("Reduce c s a", receive, n * count, code, root) == (0, "")
        assert rank.call("ReduceScatter c s a part", count, code) == (0, "")
        assert rank.call("ReduceScatterV c s a v", r + 1, code, counts, offsets) == (0, "")
        assert rank.call("AllReduce c s a a", n * count, code) == (0, "")  # in place, last
    finish(ranks)
    first = ranks[0].save("whole", want)
    for r, rank in enumerate(ranks):
        expect(rank.save("whole", want), want)
        assert torch.equal(rank.save("whole", want).view(torch.uint8), first.view(torch.uint8))  # NaN included
        expect(rank.save("a", want), want)
        expect(rank.save("part", want[:count]), want[r * count : (r + 1) * count])
        expect(rank.save("v", want[: r + 1]), want[5 + 4 * r : 5 + 4 * r + r + 1])
    expect(ranks[root].save("root", want), want)


@pytest.mark.parametrize("dtype", MOVED, ids=lambda dtype: str(dtype)[6:])
def test_moves(ranks: list[Rank], dtype: torch.dtype):
    n, count, code = len(ranks), 23, MOVED[dtype]
    inputs = [values(dtype, n, count) for _ in ranks]
    zeros = torch.zeros(n, count, dtype=torch.uint8).to(dtype)
    load_all(ranks, "a", inputs)
    load_all(ranks, "b", inputs)
    for name in ("gathered", "transposed"):
        load_all(ranks, name, [zeros] * n)
    for name in ("one", "passed", "batched"):
        load_all(ranks, name, [zeros[0]] * n)
    root = n - 1
    for r, rank in enumerate(ranks):
        assert rank.call("Broadcast c s b", n * count, code, root) == (0, "")
        assert rank.call("AllGather c s a gathered", count, code) == (0, "")
        assert rank.call("Scatter c s", "a" if r == root else "null", "one", count, code, root) == (0, "")
        assert rank.call("AlltoAll c s a transposed", count, code) == (0, "")
        # A ring. Every rank sends at once, which only a batch can: sends wait for their receivers.
        after, before = (r + 1) % n, (r - 1) % n
        items = (f"0:a:{count}:{code}:{after}", f"1:batched:{count}:{code}:{before}")
        assert rank.call("BatchSendRecv c s", *items) == (0, "")
        # A chain of sends; the last rank's is received by a batch.
        if r > 0:
            assert rank.call("Recv c s passed", count, code, r - 1) == (0, "")
        if r < n - 1:
            assert rank.call("Send c s a", count, code, r + 1) == (0, "")
    finish(ranks)
    for r, rank in enumerate(ranks):
        assert torch.equal(rank.save("b", inputs[root]).view(torch.uint8), inputs[root].view(torch.uint8))
        for name, want in {
            "gathered": torch.stack([each.view(torch.uint8)[0] for each in inputs]),
            "transposed": torch.stack([each.view(torch.uint8)[r] for each in inputs]),
            "one": inputs[root].view(torch.uint8)[r],
            "batched": inputs[(r - 1) % n].view(torch.uint8)[0],
            "passed": (inputs[r - 1] if r > 0 else zeros).view(torch.uint8)[0],
        }.items():
            assert torch.equal(rank.save(name, want), want), name


def test_moves_of_uneven_blocks(ranks: list[Rank]):
    n, code = len(ranks), MOVED[torch.float32]
    # Rank i sends (2 i + 3 j) % 5 elements to rank j, some of them none.
    matrix = [[(2 * i + 3 * j) % 5 for j in range(n)] for i in range(n)]
    inputs = [torch.arange(64.0) + 100 * r for r in range(n)]
    zeros = [torch.full((64,), -1.0)] * n
    for name in ("to", "packed", "gathered"):
        load_all(ranks, name, zeros)
    load_all(ranks, "a", inputs)

    def listed(numbers: list[int]) -> str:
        return ",".join(map(str, numbers))

    spread = [6 * j for j in range(n)]  # where blocks begin
    flat = listed([count for row in matrix for count in row])
    for r, rank in enumerate(ranks):
        receives = [matrix[i][r] for i in range(n)]
        blocks = (listed(matrix[r]), listed(spread), listed(receives), listed(spread[::-1]))
        assert rank.call("AlltoAllV c s a to", code, *blocks) == (0, "")
        assert rank.call("AlltoAllVC c s a packed", code, flat) == (0, "")
        counts = [i + 1 for i in range(n)]
        assert rank.call("AllGatherV c s a gathered", r + 1, code, listed(counts), listed(spread[::-1])) == (0, "")
    finish(ranks)
    for r, rank in enumerate(ranks):
        to, packed, gathered = zeros[0].clone(), zeros[0].clone(), zeros[0].clone()
        end = 0
        for i in range(n):
            count, begin = matrix[i][r], spread[::-1][i]
            to[begin : begin + count] = inputs[i][spread[r] : spread[r] + count]
            before = sum(matrix[i][:r])
            packed[end : end + count] = inputs[i][before : before + count]
            end += count
            gathered[begin : begin + i + 1] = inputs[i][: i + 1]
        assert torch.equal(rank.save("to", to), to)
        assert torch.equal(rank.save("packed", packed), packed)
        assert torch.equal(rank.save("gathered", gathered), gathered)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.int64], ids=lambda dtype: str(dtype)[6:])
def test_more_than_the_rings_hold(ranks: list[Rank], dtype: torch.dtype):
    """3 MiB and a bit: many turns of every ring, several parts of a reduction, and blocks that do not divide."""
    n = len(ranks)
    count = (3 << 20) // torch.empty((), dtype=dtype).element_size() + 5
    inputs = [torch.randint(-50, 50, (count,)).to(dtype) for _ in ranks]
    want = reduced(inputs, "sum")
    load_all(ranks, "a", inputs)
    load_all(ranks, "big", [torch.zeros_like(want)] * n)
    load_all(ranks, "from", [torch.zeros_like(want)] * n)
    for r, rank in enumerate(ranks):
        assert rank.call("AllReduce c s a big", count, REDUCED[dtype], OPS["sum"]) == (0, "")
        sent = (f"0:a:{count}:{REDUCED[dtype]}:{(r + 1) % n}", f"1:from:{count}:{REDUCED[dtype]}:{(r - 1) % n}")
        assert rank.call("BatchSendRecv c s", *sent) == (0, "")
    finish(ranks)
    for r, rank in enumerate(ranks):
        assert torch.equal(rank.save("big", want), want)
        assert torch.equal(rank.save("from", want), inputs[r - 1])


def test_a_barrier_waits_for_every_rank(ranks: list[Rank]):
    for rank in ranks[1:]:
        assert rank.call("Barrier c s") == (0, "")
        rank.ask("synchronize s")
    pipes = [rank.process.stdout for rank in ranks[1:]]
    assert select.select(pipes, [], [], 0.3)[0] == []
    ranks[0].done("Barrier c s")
    for rank in ranks[1:]:
        assert rank.answer() == (0, "")


def test_nothing_is_left_in_shared_memory_while_ranks_are_connected(ranks: list[Rank]):
    assert ranks[0].roots
    assert segments(ranks) == set()
