"""From Megatron's words for a mask to the operator's: sparse_mode, mask tensor, prefix, band. One table, no state.

A plan is made once per layer and batch and passed down by value; nothing is written to a config or a global.
Megatron's masks say True = left out, the operator's 1 = left out: they agree.

# B batch, Sq/Skv query and key length, i a query's and j a key's position, off = Skv - Sq
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ascendspeed.ops import NO_LIMIT, compressed_atten_mask

__all__ = ["MAPPING", "MASK_KINDS", "AttentionPlan", "MappingRow", "plan_attention"]


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The operator's mask arguments for one layer and one batch.

    atten_mask: None (every key is seen, whatever sparse_mode says), the compressed triangle of modes 2, 3, 4 and 6,
        or [B, 1, Sq, Skv] bool for mode 1; True = left out.
    prefix: keys every query of a sample sees, one number per sample; mode 6 only.
    pre_tockens, next_tockens: keys before and after the diagonal that are seen; mode 4 only.
    inner_precise: 2 makes every device return 0 for a query that sees no key; only a mask of the caller's has those.
    """

    sparse_mode: int = 0
    atten_mask: Tensor | None = None
    prefix: tuple[int, ...] | None = None
    pre_tockens: int = NO_LIMIT
    next_tockens: int = NO_LIMIT
    inner_precise: int = 0


@dataclass(frozen=True)
class MappingRow:
    """One line of the mapping: what Megatron says, what the operator is told, which keys a query then sees.

    kind: the name of an AttnMaskType, or "prefix".
    given: the attention_mask argument: "nothing", "mask" (bool, True = left out) or "lengths" (int64 [B]).
    window: whether config.window_size applies to the layer.
    sparse_mode: None means that no mask tensor is passed: all keys are seen.
    keeps: the keys query i sees.
    """

    kind: str
    given: str
    window: bool
    sparse_mode: int | None
    keeps: str


MAPPING: tuple[MappingRow, ...] = (
    MappingRow("no_mask", "nothing", False, None, "all"),
    MappingRow("no_mask", "nothing", True, 4, "i + off - left <= j <= i + off + right"),
    MappingRow("causal", "nothing", False, 2, "j <= i; Sq == Skv"),
    MappingRow("causal", "nothing", True, 4, "i + off - left <= j <= i + off; right is 0"),
    MappingRow("causal", "mask", False, 1, "not mask[i, j]: the mask replaces the triangle"),
    MappingRow("causal_bottom_right", "nothing", False, 3, "j <= i + off"),
    MappingRow("causal_bottom_right", "nothing", True, 4, "i + off - left <= j <= i + off; right is 0"),
    MappingRow("padding", "nothing", False, None, "all: nothing is padded"),
    MappingRow("padding", "mask", False, 1, "not mask[i, j]"),
    MappingRow("padding_causal", "nothing", False, 2, "j <= i; Sq == Skv"),
    MappingRow("padding_causal", "mask", False, 1, "j <= i and not mask[i, j]; Sq == Skv"),
    MappingRow("arbitrary", "mask", False, 1, "not mask[i, j]"),
    MappingRow("prefix", "lengths", False, 6, "j < lengths[b] or j <= i + off"),
)
MASK_KINDS: tuple[str, ...] = tuple(dict.fromkeys(row.kind for row in MAPPING))


def plan_attention(
    kind: str,
    attention_mask: Tensor | None,
    *,
    batch_size: int,
    query_length: int,
    key_length: int,
    device: torch.device,
    window_size: tuple[int, int] | None = None,
) -> AttentionPlan:
    """Look the case up in :data:`MAPPING` and build the operator's arguments.

    Args:
        kind: a name from :data:`MASK_KINDS`.
        attention_mask: what the layer was called with: None, a bool mask [B or 1, 1, Sq or 1, Skv] with True = left
            out, or for "prefix" an int64 tensor [B] (best kept on the CPU: its values are read here).
        window_size: Megatron's (left, right): keys before and after the diagonal that are seen, -1 = no bound. A window
            of W keys, the query's own included, is (W - 1, 0).

    Raises:
        ValueError: a case the table does not have, or a mask, length or window that breaks the row's rule. A mask is
            never dropped and never replaced in silence.
    """
    given = _what_is_given(kind, attention_mask)
    row = next((r for r in MAPPING if (r.kind, r.given, r.window) == (kind, given, window_size is not None)), None)
    if row is None:
        raise ValueError(_unknown_case(kind, given, window_size))
    if "Sq == Skv" in row.keeps and query_length != key_length:
        raise ValueError(
            f"mask {kind!r} needs as many queries as keys, but Sq={query_length} and Skv={key_length}; "
            "'causal_bottom_right' aligns the last query with the last key"
        )
    if row.sparse_mode is None:
        return AttentionPlan()
    if row.sparse_mode == 1:
        assert attention_mask is not None  # the row says "mask"
        mask = _checked_mask(attention_mask, batch_size, query_length, key_length)
        if kind == "padding_causal":
            mask = mask | torch.ones(query_length, key_length, dtype=torch.bool, device=mask.device).triu(1)
        return AttentionPlan(1, mask, inner_precise=2)
    triangle = compressed_atten_mask(row.sparse_mode, device)
    if row.sparse_mode == 6:
        assert attention_mask is not None  # the row says "lengths"
        return AttentionPlan(6, triangle, _checked_prefix(attention_mask, batch_size, query_length, key_length))
    if window_size is not None:
        return AttentionPlan(4, triangle, None, *_checked_band(window_size, kind))
    return AttentionPlan(row.sparse_mode, triangle)


def _what_is_given(kind: str, attention_mask: Tensor | None) -> str:
    if attention_mask is None:
        return "nothing"
    if kind == "prefix" and attention_mask.dtype == torch.int64:
        return "lengths"
    if attention_mask.dtype == torch.bool:
        return "mask"
    expected = "int64 prefix lengths [B]" if kind == "prefix" else "a bool mask, True = left out"
    raise ValueError(f"attention_mask has dtype {attention_mask.dtype}; mask {kind!r} takes {expected}")


def _unknown_case(kind: str, given: str, window_size: tuple[int, int] | None) -> str:
    rows = [row for row in MAPPING if row.kind == kind]
    if not rows:
        return f"mask {kind!r} is not one of {', '.join(MASK_KINDS)}"
    wanted = " or ".join(f"{row.given}{' and a window_size' if row.window else ''}" for row in rows)
    return (
        f"mask {kind!r} takes as attention_mask {wanted}; "
        f"it was given {given}{'' if window_size is None else f' and window_size={window_size}'}"
    )


def _checked_mask(mask: Tensor, batch_size: int, query_length: int, key_length: int) -> Tensor:
    full = (batch_size, 1, query_length, key_length)
    if mask.dim() != 4 or any(size not in {1, whole} for size, whole in zip(mask.shape[:3], full[:3], strict=True)):
        raise ValueError(
            f"attention_mask has shape {list(mask.shape)}; it must be [B or 1, 1, Sq or 1, Skv] of {list(full)}"
        )
    if mask.shape[3] != key_length:
        raise ValueError(f"attention_mask has shape {list(mask.shape)}; its last size must be Skv={key_length}")
    return mask.expand(full)


def _checked_prefix(lengths: Tensor, batch_size: int, query_length: int, key_length: int) -> tuple[int, ...]:
    if lengths.shape != (batch_size,):
        raise ValueError(f"prefix lengths have shape {list(lengths.shape)}; one per sample is [{batch_size}]")
    prefix = tuple(lengths.tolist())
    least = max(0, key_length - query_length)
    for sample, length in enumerate(prefix):
        if not least <= length <= key_length:
            raise ValueError(
                f"prefix length {length} of sample {sample} is outside {least}..{key_length} (Skv - Sq..Skv)"
            )
    return prefix


def _checked_band(window_size: tuple[int, int], kind: str) -> tuple[int, int]:
    left, right = window_size
    if left < -1 or right < -1:
        raise ValueError(f"window_size={window_size}: a side is a number of keys, or -1 for no bound")
    if kind != "no_mask" and right != 0:
        raise ValueError(
            f"window_size={window_size} looks {right} keys ahead, but mask {kind!r} sees none; right must be 0"
        )
    return (NO_LIMIT if left == -1 else left, NO_LIMIT if right == -1 else right)
