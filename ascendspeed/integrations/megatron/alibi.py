"""ALiBi (Press, Smith, Lewis 2022): the slope of each head. The operator adds -slope * |i - j| to the scaled scores."""

from __future__ import annotations

__all__ = ["alibi_slopes"]


def alibi_slopes(num_attention_heads: int) -> tuple[float, ...]:
    """One slope for each query head of the model, all tensor-parallel ranks together, in the order of the heads.

    For n heads, n a power of two, head h has 2 ** (-8 (h + 1) / n). Any other number takes those of the power of two p
    below it, and then every second one of 2 p heads, as the authors' code and every checkpoint trained with it do.
    """
    if num_attention_heads < 1:
        raise ValueError(f"num_attention_heads={num_attention_heads} is less than 1")
    power = 1 << (num_attention_heads.bit_length() - 1)
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * power, 2)]
    return tuple((slopes + between)[:num_attention_heads])
