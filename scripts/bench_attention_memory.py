"""Peak memory that the forward and the backward of flash_attention_score add, in every sparse mode.

    python scripts/bench_attention_memory.py                     # S = 32768, dropout and ALiBi slopes on, all modes
    python scripts/bench_attention_memory.py --length 8192 --modes 2 4 --heads 8 --kv-heads 1

Each direction is called as an operator (autograd and what it saves are not what is measured); the peak of the resident
memory meanwhile is read from the kernel. "Beyond" is what is neither input nor output; the goal is at most 64 MiB for
each thread. Exits with 1 where it is missed. Linux with glibc only.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ascendspeed.bench.resident import peak_resident_bytes, reset_peak, return_freed_memory
from ascendspeed.ops import active_isa, compressed_atten_mask

MIB = 2**20
GOAL = 64 * MIB
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPERATORS = torch.ops.ascendspeed


def bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def masks(mode: int, length: int) -> dict[str, Any]:
    """The mask of a mode and what goes with it: causal wherever the mode leaves a choice, a window in mode 4."""
    if mode in (0, 1, 5):
        full = torch.ones(length, length, dtype=torch.bool)
        return {"atten_mask": full.triu_(1), "next_tockens": 0} if mode == 0 else {"atten_mask": full.triu_(1)}
    band = {4: {"pre_tockens": 4096, "next_tockens": 0}, 7: {"next_tockens": 0}, 8: {"next_tockens": 0}}
    prefix = {"prefix": [length // 4]} if mode == 6 else {}
    return {"atten_mask": compressed_atten_mask(mode), **band.get(mode, {}), **prefix}


def problem(arguments: argparse.Namespace, mode: int) -> tuple[list[Tensor], str, dict[str, Any]]:
    """query, key, value, the layout and the attributes: one sequence; in modes 7 and 8 it is packed before a short one,
    or after one."""
    generator = torch.Generator().manual_seed(mode)
    length, packed = arguments.length, mode in (7, 8)
    heads = (arguments.heads, arguments.kv_heads or arguments.heads, arguments.kv_heads or arguments.heads)
    shapes = [(length, n, arguments.head_size) if packed else (1, n, length, arguments.head_size) for n in heads]
    tensors = [torch.randn(shape, generator=generator).to(DTYPES[arguments.dtype]) for shape in shapes]
    attributes = {"sparse_mode": mode, "scale": arguments.head_size**-0.5, **masks(mode, length)}
    if packed:
        ends = [length - 64, length] if mode == 7 else [64, length]
        attributes |= {"actual_seq_qlen": ends, "actual_seq_kvlen": ends}
    if not arguments.plain:
        attributes |= {"keep_prob": 0.9, "seed": 1}
        if mode != 7:  # which takes no pse
            attributes |= {"pse": torch.full((arguments.heads,), 0.01), "pse_type": 2}
    return tensors, "TND" if packed else "BNSD", attributes


def measure(inputs: Sequence[Tensor], run: Callable[[], Sequence[Tensor]]) -> tuple[Sequence[Tensor], int, str]:
    reset_peak()
    before = peak_resident_bytes()
    outputs = run()
    beyond = peak_resident_bytes() - before - bytes_of(outputs)
    text = f"inputs {bytes_of(inputs) / MIB:7.1f}  outputs {bytes_of(outputs) / MIB:6.1f}  beyond {beyond / MIB:6.1f}"
    return outputs, beyond, text


def run_mode(arguments: argparse.Namespace, mode: int) -> Iterator[tuple[str, int, str]]:
    tensors, layout, attributes = problem(arguments, mode)
    given = [t for t in attributes.values() if isinstance(t, Tensor)]
    gradient = torch.randn_like(tensors[0])
    (out, maximum, total), beyond, text = measure(
        tensors + given, lambda: OPERATORS.flash_attention_score(*tensors, arguments.heads, layout, **attributes)
    )
    yield "forward", beyond, text
    saved = (*tensors, gradient, maximum, total, None, out)
    _, beyond, text = measure(
        [t for t in saved if t is not None] + given,
        lambda: OPERATORS.flash_attention_score_grad(*saved, arguments.heads, layout, **attributes),
    )
    yield "backward", beyond, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", type=int, nargs="+", default=list(range(9)), help="sparse modes")
    parser.add_argument("--length", type=int, default=32768, help="tokens")
    parser.add_argument("--heads", type=int, default=4, help="query heads")
    parser.add_argument("--kv-heads", type=int, help="key/value heads; default: as many as query heads")
    parser.add_argument("--head-size", type=int, default=128)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--plain", action="store_true", help="without dropout and slopes")
    arguments = parser.parse_args()
    return_freed_memory()
    threads = torch.get_num_threads()
    print(f"{active_isa()}, {threads} threads, {vars(arguments)}; sizes in MiB")
    query = torch.zeros(1, 1, 256, arguments.head_size)
    out, maximum, total = OPERATORS.flash_attention_score(query, query, query, 1, "BNSD")  # code becomes resident
    OPERATORS.flash_attention_score_grad(query, query, query, out, maximum, total, None, out, 1, "BNSD")
    worst = 0
    for mode in arguments.modes:
        for direction, beyond, text in run_mode(arguments, mode):
            worst = max(worst, beyond)
            print(
                f"sparse_mode {mode}  {direction:8}  {text}  for each thread {beyond / threads / MIB:5.1f}", flush=True
            )
    met = worst <= GOAL * threads
    verdict = "met" if met else "MISSED"
    print(f"worst {worst / threads / MIB:.1f} MiB for each thread: the goal of {GOAL // MIB} is {verdict}")
    raise SystemExit(not met)


if __name__ == "__main__":
    main()
