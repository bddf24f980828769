"""Run in a fresh process with ASCENDSPEED_CPU_ISA set: prints the instruction set, then checks it (test_isa.py)."""

import math

import torch

from ascendspeed.ops import active_isa, dropout_gen_mask, flash_attention_score, reference
from ascendspeed.ops.library import multiplies_bfloat16
from tests.ops.test_flash_attention_score import check
from tests.support.cases import DTYPES, Case, philox


def every_16_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)


def check_loads_and_stores(dtype: torch.dtype) -> None:
    """One key: attention_out is the value itself for every number of the format, denormals and infinities included.

    Instructions that multiply bfloat16 take denormal numbers for 0.
    """
    value = every_16_bit_pattern(dtype).view(-1, 1, 1, 64)
    query = torch.zeros_like(value)
    out = flash_attention_score(query, query, value, 1, "BNSD").attention_out
    finite = ~value.isnan()
    expected = value
    if dtype == torch.bfloat16 and multiplies_bfloat16():
        expected = torch.where(value.abs() < torch.finfo(dtype).smallest_normal, 0 * value, value)
    assert torch.equal(out[finite], expected[finite]), dtype
    assert out[~finite].isnan().all()


def check_rounding(dtype: torch.dtype) -> None:
    """Two equal keys: attention_out is the mean of two values, rounded to nearest even as torch does."""
    numbers = every_16_bit_pattern(dtype)
    numbers = numbers[numbers.isfinite()]
    if dtype == torch.bfloat16 and multiplies_bfloat16():
        numbers = numbers[numbers.abs() > 2.0**-100]  # no sum of two is denormal
    generator = torch.Generator().manual_seed(1)
    pairs = numbers[torch.randint(len(numbers), (4096, 2, 67), generator=generator)]
    neighbours = numbers.sort().values
    following = torch.searchsorted(neighbours, pairs[:, 0, :40].contiguous()) + 1
    pairs[:, 1, :40] = neighbours[following.clamp(max=len(neighbours) - 1)]  # halfway between two numbers: a tie
    value = pairs.unsqueeze(1)
    query = torch.zeros_like(value)
    out = flash_attention_score(query, query, value, 1, "BNSD").attention_out
    expected = ((value[:, :, :1].float() + value[:, :, 1:].float()) * 0.5).to(dtype).expand_as(out)
    assert torch.equal(out, expected), dtype


def check_dropout_bits() -> None:
    """The same words on every instruction set, at every alignment of a row's first probability."""
    seed, offset, keep_prob = 2**40 + 3, 9, 0.3
    words = [word for counter in range(64) for word in philox(counter, offset, seed)]
    expected = torch.tensor([word < math.ceil(keep_prob * 2**32) for word in words])
    mask = dropout_gen_mask(torch.empty(0), len(words), keep_prob, seed, offset)
    assert torch.equal(reference.kept(mask, 1, 1, 1, len(words)).flatten(), expected)
    for dtype in DTYPES:
        check(Case(1, 2, 1, 99, 101, 9, 9, dtype=dtype, dropout="seed", keep_prob=0.6, seed=12))


def main() -> None:
    print(active_isa())
    for dtype in (torch.bfloat16, torch.float16):
        check_loads_and_stores(dtype)
        check_rounding(dtype)
    check_dropout_bits()
    for dtype in DTYPES:
        check(Case(1, 4, 2, 150, 200, 40, 33, dtype=dtype, memory="sliced", masked=True, sparse_mode=3))
        check(Case(1, 2, 2, 100, 70, 130, 130, dtype=dtype, masked=True, sparse_mode=1, mask_shape="BNSS"))


if __name__ == "__main__":
    main()
