"""Legal packed problems: a hypothesis strategy for every kind the operator has, and a fixed one for each mode."""

import dataclasses
import math
from typing import Any

import torch
from hypothesis import strategies as st

from tests.support.cases import DTYPES, MEMORY, head_sizes, rarely, tokens
from tests.support.packed import NO_LIMIT, PackedCase

# Lengths on both sides of every block edge (72 rows, 96 keys) are as likely as others.
_lengths = st.one_of(st.integers(1, 20), st.sampled_from([71, 72, 73, 95, 96, 97, 143, 145, 193]), st.integers(1, 200))
MODES = (0, 1, 2, 3, 4, 6, 7, 8)
_FLATTENED = ("full", "row")
_SLOPES = ("N", "BN")


def _holds_band(q_len: int, kv_len: int, pre: int, following: int) -> bool:
    """Whether some row of left-up tokens pre, following has a position in range."""
    return max(-pre, 1 - q_len) <= min(following, kv_len - 1)


def _draw_lengths(draw: st.DrawFn, mode: int, masked: bool, pse: str | None) -> tuple[list[int], list[int]]:
    batch = draw(st.integers(1, 5))
    if pse:  # takes no element of length 0
        q_lens = [draw(_lengths) for _ in range(batch)]
        kv_lens = [q_len if pse in _SLOPES else draw(st.one_of(st.just(q_len), _lengths)) for q_len in q_lens]
        if masked and mode == 8:  # equal lengths, but for the first one where the start indices make up for it
            kv_lens = [draw(_lengths) if batch > 1 else q_lens[0], *q_lens[1:]]
        elif masked and mode == 3:
            q_lens = [min(lengths) for lengths in zip(q_lens, kv_lens, strict=True)]
        return q_lens, kv_lens
    some = st.one_of(st.just(0), _lengths, _lengths)
    q_lens = [draw(some) for _ in range(batch)]
    kv_lens = [draw(st.one_of(st.just(q_len), some)) for q_len in q_lens]
    extra = draw(st.integers(0, 2))
    q_lens, kv_lens = q_lens + [0] * extra, kv_lens + [0] * extra
    band = _band_index(mode, q_lens) if masked else None
    if band is not None and not kv_lens[band]:
        kv_lens[band] = draw(_lengths)
    if masked and (mode == 3 or (mode == 7 and len(q_lens) > 1)):  # no more queries than keys
        q_lens = [min(q, kv) if kv else q for q, kv in zip(q_lens, kv_lens, strict=True)]
    return q_lens, kv_lens


def _band_index(mode: int, q_lens: list[int]) -> int | None:
    """The element with the band in modes 7 and 8; None for a batch of one, which is judged as in mode 4."""
    with_queries = [index for index, length in enumerate(q_lens) if length]
    if mode not in (7, 8) or len(q_lens) == 1 or not with_queries:
        return None
    return with_queries[-1 if mode == 7 else 0]


def _draw_tokens(draw: st.DrawFn, mode: int, q_lens: list[int], kv_lens: list[int]) -> tuple[int, int]:
    """Tokens that the mode accepts for every element."""
    band = _band_index(mode, q_lens)
    if band is not None:
        q_len, kv_len = q_lens[band], kv_lens[band]
        pre = draw(st.one_of(st.integers(kv_len, kv_len + 50), st.just(NO_LIMIT)))
        return pre, draw(st.integers(q_len - kv_len, 0 if mode == 7 else q_len - kv_len + 200))
    if mode not in (0, 4, 7, 8) or draw(st.booleans()):
        return NO_LIMIT, NO_LIMIT
    pre, following = draw(tokens), draw(tokens)
    for q_len, kv_len in zip(q_lens, kv_lens, strict=True):
        off = 0 if mode == 0 else kv_len - q_len
        if q_len and kv_len and not _holds_band(q_len, kv_len, pre - off, following + off):
            return NO_LIMIT, NO_LIMIT
    return pre, following


@st.composite
def packed_cases(draw: st.DrawFn) -> PackedCase:
    """Legal calls with every mode and attribute, elements without queries or keys, and ignored tails."""
    masked = draw(st.sampled_from([True, True, False]))
    mode = draw(st.sampled_from(MODES))
    rope = masked and mode != 6 and draw(st.sampled_from([False, False, True]))
    pse = None if mode == 7 or rope else draw(st.sampled_from([None, None, None, *_FLATTENED, *_SLOPES]))
    pse_type = 1 if pse is None else draw(st.sampled_from([2, 3] if pse in _SLOPES else [0, 1]))
    q_lens, kv_lens = _draw_lengths(draw, mode, masked, pse)
    pre, following = _draw_tokens(draw, mode, q_lens, kv_lens) if masked else (NO_LIMIT, NO_LIMIT)
    starts = draw(st.one_of(st.none(), st.tuples(st.integers(-9, 300), st.integers(-9, 300))))
    if pse and masked and mode == 8:
        q_start = draw(st.integers(-9, 300))
        starts = (q_start, q_start + q_lens[0] - kv_lens[0])

    # Rows after the last element: on one side they need nothing, on both the lists must end in 0.
    q_zeros, kv_zeros = (_trailing_zeros(draw, lengths) for lengths in (q_lens, kv_lens))
    q_tail, kv_tail = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    if not (q_zeros and kv_zeros) and draw(st.booleans()):
        q_tail = 0
    elif not (q_zeros and kv_zeros):
        kv_tail = 0

    prefix = None
    if masked and mode == 6:
        prefix = tuple(
            draw(st.integers(max(0, kv - q), kv) if q and kv else st.integers(0, 3))
            for q, kv in zip(q_lens, kv_lens, strict=True)
        )
    kv_heads = draw(st.integers(1, 3))
    qk_dim = draw(head_sizes)
    dtype = torch.bfloat16 if rope else draw(st.sampled_from(DTYPES))
    sink = dtype != torch.float32 and draw(st.booleans())
    dropout = "none" if rope else draw(st.sampled_from(["none", "mask", "seed"]))
    return PackedCase(
        q_lens=tuple(q_lens),
        kv_lens=tuple(kv_lens),
        q_tail=q_tail,
        kv_tail=kv_tail,
        q_zeros=q_zeros,
        kv_zeros=kv_zeros,
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        qk_dim=qk_dim,
        v_dim=draw(st.one_of(st.just(qk_dim), st.integers(1, qk_dim))),
        rope_dim=draw(st.integers(1, qk_dim)) if rope else 0,
        dtype=dtype,
        memory=draw(st.sampled_from(MEMORY)),
        masked=masked,
        sparse_mode=mode,
        mask_density=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        mask_dtype=draw(st.sampled_from([torch.bool, torch.uint8])),
        pre_tockens=pre,
        next_tockens=following,
        prefix=prefix,
        scale=draw(st.one_of(st.none(), st.sampled_from([1.0, 0.0, -0.5, 1 / math.sqrt(3)]))),
        pse=pse,
        pse_type=pse_type,
        starts=starts,
        sink=sink,
        sink_minus_inf=sink and draw(rarely),
        inner_precise=draw(st.integers(0, 2)),
        keep_prob=1.0 if dropout == "none" else draw(st.sampled_from([0.9, 0.5, 1e-3])),
        dropout=dropout,
        softmax_layout=draw(st.sampled_from(["", "TND", "same_as_input"])),
        seed=draw(st.integers(0, 2**31)),
    )


def _trailing_zeros(draw: st.DrawFn, lengths: list[int]) -> int:
    """How many of the last entries of the cumulative list to write as 0: any number of elements of length 0."""
    empty = 0
    while empty < len(lengths) and lengths[-1 - empty] == 0:
        empty += 1
    return draw(st.integers(0, empty))


# Every element crosses a block edge (72 rows, 96 keys) or is empty. Legal in each mode.
_LEGAL = {
    0: {"pre_tockens": 60, "next_tockens": 20},
    4: {"pre_tockens": 60, "next_tockens": 20},
    6: {"prefix": (40, 5, 0, 150)},
    7: {"next_tockens": -30},
    8: {"next_tockens": -15},
}


def four_elements(mode: int | None, **changes: Any) -> PackedCase:
    """A fixed problem in `mode` (None: without a mask), with a tail of rows; `changes` are fields of the case."""
    case = PackedCase(
        q_lens=(75, 3, 0, 100), kv_lens=(100, 5, 4, 200), q_tail=3, heads=4, kv_heads=2, qk_dim=16, v_dim=8,
        masked=mode is not None, sparse_mode=mode or 0, seed=7, **_LEGAL.get(mode, {}),
    )  # fmt: skip
    return dataclasses.replace(case, **changes)
