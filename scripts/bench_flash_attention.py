"""Time of flash_attention_score on the CPU, beside torch's scaled_dot_product_attention.

    python scripts/bench_flash_attention.py                     # causal, S = 2048, every dtype, forward and both
    python scripts/bench_flash_attention.py --length 8192 --dtype bfloat16

Baseline and ours run in one process, one after the other in each round, on the same tensors; the medians and their
spread (fastest to slowest) are printed, and the ratio torch / ours. Only the ratio carries from machine to machine.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ascendspeed.ops import active_isa, compressed_atten_mask, flash_attention_score

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return flash_attention_score(
        query, key, value, query.shape[1], "BNSD", scale=query.shape[-1] ** -0.5,
        atten_mask=compressed_atten_mask(2), sparse_mode=2,
    ).attention_out  # fmt: skip


def torch_sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def make_tensors(arguments: argparse.Namespace, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    heads = (arguments.heads, arguments.kv_heads or arguments.heads, arguments.kv_heads or arguments.heads)
    return [
        torch.randn(arguments.batch, n, arguments.length, arguments.head_size, dtype=dtype, requires_grad=True)
        for n in heads
    ]


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_case(arguments: argparse.Namespace, dtype: torch.dtype) -> None:
    tensors = make_tensors(arguments, dtype)
    gradient = torch.randn_like(tensors[0])

    def forward(attend: Callable[..., Tensor]) -> None:
        with torch.no_grad():
            attend(*tensors)

    def both(attend: Callable[..., Tensor]) -> None:
        torch.autograd.grad(attend(*tensors), tensors, gradient)

    pairs = arguments.length * (arguments.length + 1) // 2 * arguments.batch * arguments.heads
    for name, run, products in (("forward", forward, 2), ("forward+backward", both, 7)):
        times: dict[Callable[..., Tensor], list[float]] = {torch_sdpa: [], ours: []}
        for measured in range(-1, arguments.rounds):
            for attend, taken in times.items():
                elapsed = seconds(functools.partial(run, attend))
                if measured >= 0:  # the first round warms up
                    taken.append(elapsed)
        medians = {attend: statistics.median(taken) for attend, taken in times.items()}
        rate = 2 * products * pairs * arguments.head_size / medians[ours] / 1e9
        print(
            f"{dtype!s:15} {name:17} torch {describe(times[torch_sdpa])}  ours {describe(times[ours])}  "
            f"ratio {medians[torch_sdpa] / medians[ours]:.2f}  ours {rate:.0f} GFLOP/s"
        )


def describe(times: list[float]) -> str:
    low, middle, high = (1e3 * t for t in (min(times), statistics.median(times), max(times)))
    return f"{middle:8.1f} ms ({low:.1f}-{high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8, help="query heads")
    parser.add_argument("--kv-heads", type=int, help="key/value heads; default: as many as query heads")
    parser.add_argument("--length", type=int, default=2048, help="tokens")
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--dtype", choices=DTYPES, help="default: all")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds after one to warm up")
    arguments = parser.parse_args()
    print(f"{active_isa()}, {torch.get_num_threads()} threads, {vars(arguments)}")
    for name in [arguments.dtype] if arguments.dtype else DTYPES:
        time_case(arguments, DTYPES[name])


if __name__ == "__main__":
    main()
