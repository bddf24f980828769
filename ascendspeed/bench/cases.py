"""What is timed: attention problems as a table, and each of them as a call of the operator and of torch's.

# B = 1 batch, N query heads, Nkv key/value heads, Sq/Skv lengths, D head size; the layout is BNSD
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ascendspeed.ops import compressed_atten_mask, flash_attention_score

__all__ = ["CASES", "DTYPES", "Attend", "Case", "operator", "problem", "torch_sdpa", "visible", "visible_pairs"]

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query [1, N, Sq, D], key and value [1, Nkv, Skv, D] -> attention [1, N, Sq, D]"""


@dataclass(frozen=True)
class Case:
    """One problem. Position i sees: all keys (full), those up to i (causal), `window` up to i (band), and those up to i
    together with the first `prefix` (prefix)."""

    name: str
    mask: str
    dtype: str
    """A name in DTYPES."""
    length: int
    """Sq, tokens; Skv too, unless `keys` says otherwise."""
    heads: int = 8
    kv_heads: int = 8
    head_size: int = 128
    keys: int | None = None
    window: int | None = None
    prefix: int | None = None
    beside_float32: bool = False
    """Time our own float32 on the same numbers too."""
    peak: bool = False
    """Measure the processor's multiply-adds too, in every round."""

    @property
    def key_length(self) -> int:
        """Skv, tokens."""
        return self.length if self.keys is None else self.keys


CASES = (
    Case("causal-bf16-2048", "causal", "bf16", 2048),
    Case("causal-bf16-8192", "causal", "bf16", 8192, peak=True),
    Case("causal-float32-2048", "causal", "float32", 2048),
    Case("causal-float32-8192", "causal", "float32", 8192, peak=True),
    Case("full-bf16-2048", "full", "bf16", 2048),
    Case("full-float32-2048", "full", "float32", 2048),
    Case("causal-d64-bf16-2048", "causal", "bf16", 2048, head_size=64),
    Case("gqa-bf16-4096", "causal", "bf16", 4096, heads=32, kv_heads=8),
    Case("band-bf16-8192", "band", "bf16", 8192, window=512, peak=True),
    Case("prefix-bf16-4096", "prefix", "bf16", 4096, prefix=1024),
    Case("causal-float16-2048", "causal", "float16", 2048, beside_float32=True),
    Case("tiny-bf16-1", "full", "bf16", 1, keys=64),
    Case("tiny-bf16-16", "causal", "bf16", 16),
    Case("tiny-bf16-64", "causal", "bf16", 64),
    Case("tiny-float32-1", "full", "float32", 1, keys=64),
    Case("tiny-float32-16", "causal", "float32", 16),
    Case("tiny-float32-64", "causal", "float32", 64),
)


def problem(case: Case) -> tuple[list[Tensor], Tensor]:
    """query, key and value, which require gradients, and the gradient of the output; the same numbers in every call."""
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int, length: int) -> Tensor:
        return torch.randn(1, heads, length, case.head_size, generator=generator).to(DTYPES[case.dtype])

    query, gradient = (draw(case.heads, case.length) for _ in range(2))
    key, value = (draw(case.kv_heads, case.key_length) for _ in range(2))
    return [tensor.requires_grad_() for tensor in (query, key, value)], gradient


def operator(case: Case) -> Attend:
    """flash_attention_score with the case's sparse mode."""
    attributes = _sparse_attributes(case)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flash_attention_score(
            query, key, value, case.heads, "BNSD", scale=case.head_size**-0.5, **attributes
        ).attention_out

    return attend


def _sparse_attributes(case: Case) -> dict[str, Any]:
    if case.mask == "full":
        return {}
    if case.mask == "causal":
        return {"sparse_mode": 2, "atten_mask": compressed_atten_mask(2)}
    if case.mask == "band":
        assert case.window is not None
        return {
            "sparse_mode": 4,
            "atten_mask": compressed_atten_mask(4),
            "pre_tockens": case.window - 1,
            "next_tockens": 0,
        }
    assert case.mask == "prefix"
    return {"sparse_mode": 6, "atten_mask": compressed_atten_mask(6), "prefix": [case.prefix]}


def torch_sdpa(case: Case) -> Attend:
    """torch's scaled_dot_product_attention: is_causal where that says it, otherwise with a dense bool mask."""
    options: dict[str, Any] = {"enable_gqa": case.heads != case.kv_heads}
    if case.mask == "causal":
        options["is_causal"] = True
    elif case.mask != "full":
        options["attn_mask"] = visible(case)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, **options)

    return attend


def visible(case: Case) -> Tensor:
    """bool [Sq, Skv], True where a position sees a key."""
    if case.mask == "full":
        return torch.ones(case.length, case.key_length, dtype=torch.bool)
    keys = torch.arange(case.key_length)
    positions = torch.arange(case.length).unsqueeze(1)
    causal = keys <= positions
    if case.mask == "band":
        assert case.window is not None
        return causal & (keys > positions - case.window)
    if case.mask == "prefix":
        assert case.prefix is not None
        return causal | (keys < case.prefix)
    return causal


def visible_pairs(case: Case) -> int:
    """Positions of a query and a key it sees, all heads together: what the operations are counted on."""
    n = case.length
    per_head = {
        "full": n * case.key_length,
        "causal": n * (n + 1) // 2,
        "band": _triangle(n) - _triangle(n - (case.window or 0)),
        "prefix": _triangle(n) + _triangle((case.prefix or 0) - 1),
    }[case.mask]
    return case.heads * per_head


def _triangle(n: int) -> int:
    return max(n, 0) * (n + 1) // 2
