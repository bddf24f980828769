"""From Megatron's words for a mask to the operator's: sparse_mode, mask tensor, prefix, band. One table, no state.

A plan is passed down by value and is never written to a config; `plan_memo` keeps the last one of each layer kind.
Megatron's masks say True = left out, the operator's 1 = left out: they agree.

# B batch, Sq/Skv query and key length, i a query's and j a key's position, off = Skv - Sq; in a packed batch all of
# them are a document's own
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ascendspeed.integrations.megatron.packed import Documents
from ascendspeed.ops import NO_LIMIT, compressed_atten_mask

__all__ = ["MAPPING", "MASK_KINDS", "AttentionPlan", "MappingRow", "check_window", "plan_attention"]


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The operator's mask arguments for one kind of layer and one batch.

    atten_mask: None (every key is seen, whatever sparse_mode says), the compressed triangle of modes 2, 3, 4 and 6,
        or [B, 1, Sq, Skv] bool for mode 1; True = left out.
    prefix: keys every query of a sample (packed: of a document) sees, one number for each; mode 6 only.
    pre_tockens, next_tockens: keys before and after the diagonal that are seen; mode 4 only.
    inner_precise: 2 makes every device return 0 for a query that sees no key; only a mask of the caller's has those.
    actual_seq_qlen, actual_seq_kvlen: where the documents of a packed batch end; None: the batch is not packed.
    pse, pse_type: what is added to the scaled scores: float32 slopes [N] of ALiBi for type 2, a bias for type 0.
    """

    sparse_mode: int = 0
    atten_mask: Tensor | None = None
    prefix: tuple[int, ...] | None = None
    pre_tockens: int = NO_LIMIT
    next_tockens: int = NO_LIMIT
    inner_precise: int = 0
    actual_seq_qlen: tuple[int, ...] | None = None
    actual_seq_kvlen: tuple[int, ...] | None = None
    pse: Tensor | None = None
    pse_type: int = 1

    @property
    def layout(self) -> str:
        """What Megatron's tensors are: [s, b, n, d] with the last two dims joined, or packed [t, n, d]."""
        return "SBH" if self.actual_seq_qlen is None else "TND"


@dataclass(frozen=True)
class MappingRow:
    """One line of the mapping: what Megatron says, what the operator is told, which keys a query then sees.

    kind: the name of an AttnMaskType, or "prefix".
    given: the attention_mask argument: "nothing", "mask" (bool, True = left out) or "lengths" (int64 [B]).
    window: whether config.window_size applies to the layer.
    packed: whether packed_seq_params are given: every document by itself, and none sees another.
    sparse_mode: None means that no mask tensor is passed: all keys are seen.
    keeps: the keys query i sees.
    """

    kind: str
    given: str
    window: bool
    packed: bool
    sparse_mode: int | None
    keeps: str


_BAND = "i + off - left <= j <= i + off + right"
_CAUSAL_BAND = "i + off - left <= j <= i + off; right is 0"
MAPPING: tuple[MappingRow, ...] = (
    MappingRow("no_mask", "nothing", False, False, None, "all"),
    MappingRow("no_mask", "nothing", True, False, 4, _BAND),
    MappingRow("no_mask", "nothing", False, True, None, "all"),
    MappingRow("no_mask", "nothing", True, True, 4, _BAND),
    MappingRow("causal", "nothing", False, False, 2, "j <= i; Sq == Skv"),
    MappingRow("causal", "nothing", True, False, 4, _CAUSAL_BAND),
    MappingRow("causal", "mask", False, False, 1, "not mask[i, j]: the mask replaces the triangle"),
    MappingRow("causal", "nothing", False, True, 3, "j <= i; Sq == Skv"),
    MappingRow("causal", "nothing", True, True, 4, _CAUSAL_BAND),
    MappingRow("causal_bottom_right", "nothing", False, False, 3, "j <= i + off"),
    MappingRow("causal_bottom_right", "nothing", True, False, 4, _CAUSAL_BAND),
    MappingRow("causal_bottom_right", "nothing", False, True, 3, "j <= i + off"),
    MappingRow("causal_bottom_right", "nothing", True, True, 4, _CAUSAL_BAND),
    MappingRow("padding", "nothing", False, False, None, "all: nothing is padded"),
    MappingRow("padding", "mask", False, False, 1, "not mask[i, j]"),
    MappingRow("padding", "nothing", False, True, None, "all: padding is a document of its own"),
    MappingRow("padding_causal", "nothing", False, False, 2, "j <= i; Sq == Skv"),
    MappingRow("padding_causal", "nothing", True, False, 4, _CAUSAL_BAND),
    MappingRow("padding_causal", "mask", False, False, 1, "j <= i and not mask[i, j]; Sq == Skv"),
    MappingRow("padding_causal", "nothing", False, True, 3, "j <= i; Sq == Skv"),
    MappingRow("padding_causal", "nothing", True, True, 4, _CAUSAL_BAND),
    MappingRow("arbitrary", "mask", False, False, 1, "not mask[i, j]"),
    MappingRow("prefix", "lengths", False, False, 6, "j < lengths[b] or j <= i + off"),
    MappingRow("prefix", "lengths", False, True, 6, "j < lengths[document] or j <= i + off"),
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
    documents: Documents | None = None,
    slopes: tuple[float, ...] | None = None,
) -> AttentionPlan:
    """Look the case up in :data:`MAPPING` and build the operator's arguments.

    Args:
        kind: a name from :data:`MASK_KINDS`.
        attention_mask: what the layer was called with: None, a bool mask [B or 1, 1, Sq or 1, Skv] with True = left
            out, or for "prefix" an int64 tensor [B], packed [documents] (best kept on the CPU: its values are read
            here).
        batch_size, query_length, key_length: of the tensors; of a packed batch they are 1 and all tokens together.
        window_size: Megatron's (left, right): keys before and after the diagonal that are seen, -1 = no bound. A window
            of W keys, the query's own included, is (W - 1, 0).
        documents: where the documents of a packed batch end; None: it is not packed.
        slopes: of ALiBi, one for each query head of this rank; None: no ALiBi.

    Raises:
        ValueError: a case the table does not have, or a mask, length or window that breaks the row's rule. A mask is
            never dropped and never replaced in silence.
    """
    given = _what_is_given(kind, attention_mask)
    case = (kind, given, window_size is not None, documents is not None)
    row = next((r for r in MAPPING if (r.kind, r.given, r.window, r.packed) == case), None)
    if row is None:
        raise ValueError(_unknown_case(kind, given, window_size, documents is not None))
    lengths = [(query_length, key_length)]
    where: dict[str, Any] = {}
    if documents is not None:
        lengths = list(zip(documents.query_lengths, documents.key_lengths, strict=True))
        where = {"actual_seq_qlen": documents.query_ends, "actual_seq_kvlen": documents.key_ends}
    if "Sq == Skv" in row.keeps or slopes is not None:
        _check_equal(lengths, repr(kind) + ("" if slopes is None else " with ALiBi"), documents is not None)
    if slopes is not None:
        where |= {"pse": torch.tensor(slopes, dtype=torch.float32, device=device), "pse_type": 2}
    if row.sparse_mode is None:
        return AttentionPlan(**where)
    if row.sparse_mode == 1:
        assert attention_mask is not None  # the row says "mask"
        mask = _checked_mask(attention_mask, batch_size, query_length, key_length)
        if kind == "padding_causal":
            mask = mask | torch.ones(query_length, key_length, dtype=torch.bool, device=mask.device).triu(1)
        return AttentionPlan(1, mask, inner_precise=2, **where)
    triangle = compressed_atten_mask(row.sparse_mode, device)
    if row.sparse_mode == 6:
        assert attention_mask is not None  # the row says "lengths"
        prefix = _checked_prefix(attention_mask, lengths * batch_size, documents)
        return AttentionPlan(6, triangle, prefix, **where)
    if window_size is not None:
        check_window(window_size, kind)
        left, right = (NO_LIMIT if side == -1 else side for side in window_size)
        return AttentionPlan(4, triangle, None, left, right, **where)
    return AttentionPlan(row.sparse_mode, triangle, **where)


def check_window(window_size: tuple[int, ...], kind: str) -> None:
    """ValueError unless a layer whose mask is `kind` can have this window."""
    if len(window_size) != 2 or any(side < -1 for side in window_size):
        raise ValueError(f"window_size={window_size}: (left, right), each a number of keys, or -1 for no bound")
    if not any(row.window for row in MAPPING if row.kind == kind):
        able = ", ".join(dict.fromkeys(row.kind for row in MAPPING if row.window))
        raise ValueError(f"window_size={window_size}: mask {kind!r} has no window; {able} have")
    if kind != "no_mask" and window_size[1] != 0:
        raise ValueError(
            f"window_size={window_size} looks {window_size[1]} keys ahead, but mask {kind!r} sees none; right must be 0"
        )


def _what_is_given(kind: str, attention_mask: Tensor | None) -> str:
    if attention_mask is None:
        return "nothing"
    if kind == "prefix" and attention_mask.dtype == torch.int64:
        return "lengths"
    if attention_mask.dtype == torch.bool:
        return "mask"
    expected = "int64 prefix lengths [B]" if kind == "prefix" else "a bool mask, True = left out"
    raise ValueError(f"attention_mask has dtype {attention_mask.dtype}; mask {kind!r} takes {expected}")


_NO_MASK_REMEDY = "; Megatron-LM's --no-create-attention-mask-in-dataloader leaves the mask to the attention"


def _unknown_case(kind: str, given: str, window_size: tuple[int, int] | None, packed: bool) -> str:
    rows = [row for row in MAPPING if row.kind == kind]
    if not rows:
        return f"mask {kind!r} is not one of {', '.join(MASK_KINDS)}"
    wanted = " or ".join(
        f"{row.given}{' and a window_size' if row.window else ''}{' and packed_seq_params' if row.packed else ''}"
        for row in rows
    )
    return (
        f"mask {kind!r} takes as attention_mask {wanted}; it was given {given}"
        f"{'' if window_size is None else f' and window_size={window_size}'}"
        f"{' and packed_seq_params' if packed else ''}"
        f"{_NO_MASK_REMEDY if kind == 'causal' and given == 'mask' else ''}"
    )


def _check_equal(lengths: list[tuple[int, int]], mask: str, packed: bool) -> None:
    for number, (queries, keys) in enumerate(lengths):
        if queries != keys:
            raise ValueError(
                f"mask {mask} needs as many queries as keys, but Sq={queries} and Skv={keys}"
                f"{f' in document {number}' if packed else ''}; "
                "'causal_bottom_right' aligns the last query with the last key"
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


def _checked_prefix(given: Tensor, lengths: list[tuple[int, int]], documents: Documents | None) -> tuple[int, ...]:
    each = "sample" if documents is None else "document"
    padding = None if documents is None else documents.is_padding
    expected = len(lengths) if padding is None else padding.count(False)
    if given.shape != (expected,):
        raise ValueError(f"prefix lengths have shape {list(given.shape)}; one per {each} is [{expected}]")
    values = iter(given.tolist())
    prefix = []
    for number, (queries, keys) in enumerate(lengths):
        least = max(0, keys - queries)
        length = least if padding is not None and padding[number] else next(values)
        if not least <= length <= keys:
            raise ValueError(f"prefix length {length} of {each} {number} is outside {least}..{keys} (Skv - Sq..Skv)")
        prefix.append(length)
    return tuple(prefix)
