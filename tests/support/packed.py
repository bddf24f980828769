"""Packed problems (layout TND): batch elements of different lengths, one after the other along one axis.

A `PackedCase` is one call; its `elements()` are the dense problems of batch 1 it stands for, which is how the reference
sees it. packed_check.py compares the two, packed_cases.py draws legal ones.

T packed length, N query heads, Nkv key/value heads, Sq/Skv lengths of one element; head sizes: D, Dv, Drope.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ascendspeed.ops import compressed_atten_mask, reference
from tests.support.cases import arrange, sinks, unless_expanded
from tests.support.operator import dropout_gen_mask

NO_LIMIT = 2147483647


def cumulative(lengths: tuple[int, ...], zeros: int) -> list[int]:
    """[2, 3, 0, 4] as [2, 5, 5, 9]; the last `zeros` entries, of elements of length 0, are written as 0."""
    assert not any(lengths[len(lengths) - zeros :])
    ends = list(itertools.accumulate(lengths))
    return ends[: len(ends) - zeros] + [0] * zeros


class Element(NamedTuple):
    """One batch element: its lengths, and what lies before it in the packed tensors."""

    index: int
    q_len: int
    kv_len: int
    q_start: int
    kv_start: int
    area: int  # sum of Sq * Skv of the elements before

    @property
    def empty(self) -> bool:
        return self.q_len == 0 or self.kv_len == 0

    @property
    def rows(self) -> slice:
        return slice(self.q_start, self.q_start + self.q_len)

    @property
    def columns(self) -> slice:
        return slice(self.kv_start, self.kv_start + self.kv_len)


@dataclasses.dataclass(frozen=True)
class PackedCase:
    """One call. q_lens, kv_lens: a length per batch element; tails: rows after the last element that belong to none."""

    q_lens: tuple[int, ...] = (1,)
    kv_lens: tuple[int, ...] = (1,)
    q_tail: int = 0
    kv_tail: int = 0
    q_zeros: int = 0  # how many of the last list entries are written as 0
    kv_zeros: int = 0
    heads: int = 1
    kv_heads: int = 1
    qk_dim: int = 4
    v_dim: int = 4
    rope_dim: int = 0  # head size of query_rope and key_rope; 0: none
    dtype: torch.dtype = torch.float32
    memory: str = "contiguous"
    masked: bool = False
    sparse_mode: int = 0
    mask_density: float = 0.3
    mask_dtype: torch.dtype = torch.bool
    pre_tockens: int = NO_LIMIT
    next_tockens: int = NO_LIMIT
    prefix: tuple[int, ...] | None = None
    scale: float | None = None
    pse: str | None = None  # "full", "row": flattened; "1CS", "BCS": 1024 rows; "N", "BN": slopes
    pse_type: int = 1
    starts: tuple[int, int] | None = None  # q_start_idx, kv_start_idx
    sink: bool = False
    sink_minus_inf: bool = False  # of every second head
    inner_precise: int = 0
    keep_prob: float = 1.0
    dropout: str = "none"  # "mask": packed bits are passed, "seed": they are generated
    softmax_layout: str = ""
    seed: int = 0

    @property
    def factor(self) -> float:
        return self.qk_dim**-0.5 if self.scale is None else self.scale

    def elements(self) -> Iterator[Element]:
        q_start = kv_start = area = 0
        for index, (q_len, kv_len) in enumerate(zip(self.q_lens, self.kv_lens, strict=True)):
            yield Element(index, q_len, kv_len, q_start, kv_start, area)
            q_start, kv_start, area = q_start + q_len, kv_start + kv_len, area + q_len * kv_len

    @property
    def area(self) -> int:
        return sum(q * kv for q, kv in zip(self.q_lens, self.kv_lens, strict=True))

    def band_index(self) -> int | None:
        """The batch element that has the band in modes 7 and 8."""
        with_queries = [index for index, length in enumerate(self.q_lens) if length > 0]
        if not with_queries:
            return None
        return with_queries[-1] if self.sparse_mode == 7 else with_queries[0]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """query, key, value and dy; NaN in the rows of the tails, so that reading one shows."""
        generator = torch.Generator().manual_seed(self.seed)
        query = self._queries(self.qk_dim, generator)
        key, value = self._keys(self.qk_dim, generator), self._keys(self.v_dim, generator)
        dy = arrange(self._queries(self.v_dim, generator), unless_expanded(self.memory))
        return arrange(query, self.memory), arrange(key, self.memory), arrange(value, self.memory), dy

    def rope_tensors(self) -> tuple[Tensor, Tensor] | None:
        """query_rope and key_rope, as query and key."""
        if not self.rope_dim:
            return None
        generator = torch.Generator().manual_seed(self.seed + 5)
        query, key = self._queries(self.rope_dim, generator), self._keys(self.rope_dim, generator)
        return arrange(query, self.memory), arrange(key, self.memory)

    def _queries(self, dim: int, generator: torch.Generator) -> Tensor:
        return _packed(self.q_lens, self.q_tail, self.heads, dim, generator).to(self.dtype)

    def _keys(self, dim: int, generator: torch.Generator) -> Tensor:
        return _packed(self.kv_lens, self.kv_tail, self.kv_heads, dim, generator).to(self.dtype)

    def atten_mask(self) -> Tensor | None:
        """Modes 0, 1: [max Sq, max Skv], which every element reads from the top left; else a compressed one."""
        if not self.masked:
            return None
        if self.sparse_mode not in (0, 1):  # modes 7 and 8 take the triangle too
            return compressed_atten_mask(6 if self.sparse_mode == 6 else 4).to(self.mask_dtype)
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (max(self.q_lens), max(self.kv_lens))
        mask = torch.rand(shape, generator=generator) < self.mask_density
        mask |= torch.rand((shape[0], 1), generator=generator) < 0.05  # some rows see nothing
        mask = mask if self.mask_dtype == torch.bool else mask.to(torch.uint8) * 3
        return arrange(mask, unless_expanded(self.memory))

    def excluded(self, element: Element) -> Tensor:
        mask = self.atten_mask()
        if mask is not None and self.sparse_mode in (0, 1):
            mask = mask[: element.q_len, : element.kv_len]
        return reference.excluded(
            1, self.heads, element.q_len, element.kv_len, atten_mask=mask, sparse_mode=self.sparse_mode,
            pre_tockens=self.pre_tockens, next_tockens=self.next_tockens,
            prefix=None if self.prefix is None else [self.prefix[element.index]],
            band_element=element.index == self.band_index(),
        )  # fmt: skip

    def drop_mask(self) -> Tensor | None:
        """The packed bits that apply, whether they are passed or generated."""
        if self.dropout == "none":
            return None
        numel = self.heads * self.area
        if self.dropout == "seed":
            return dropout_gen_mask(torch.empty(0), numel, self.keep_prob, self.seed + 1, self.seed // 3)
        generator = torch.Generator().manual_seed(self.seed + 2)
        bits = torch.randint(256, (-(-numel // 8) + self.seed % 3,), dtype=torch.uint8, generator=generator)
        return arrange(bits, unless_expanded(self.memory))

    def pse_tensor(self) -> Tensor | None:
        return None if self.pse is None else arrange(self._draw_pse(), unless_expanded(self.memory))

    def _draw_pse(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 3)
        batch = len(self.q_lens)
        if self.pse in ("N", "BN"):
            return torch.rand((self.heads,) if self.pse == "N" else (batch, self.heads), generator=generator)
        if self.pse in ("full", "row"):
            numel = self.heads * (self.area if self.pse == "full" else sum(self.kv_lens))
            return torch.randn(numel, generator=generator).to(self.dtype)
        # The last 1024 rows of a function of i - j, a different one for each batch element and head.
        longest = max(self.kv_lens)
        lengths = self.q_lens if self.pse == "BCS" else (longest,)
        slopes = torch.rand(len(lengths), self.heads, 1, 1, generator=generator) / 64
        row = torch.arange(1024).view(1, 1, -1, 1) + torch.tensor(lengths).view(-1, 1, 1, 1) - 1024
        return (-slopes * (row - torch.arange(longest))).to(self.dtype)

    def element_pse(self, pse: Tensor | None, element: Element) -> Tensor | None:
        """The part of a tensor of pse's shape that belongs to `element`, shaped as pse of a dense call of batch 1."""
        if pse is None or self.pse == "N":
            return pse
        if self.pse == "full":
            first, count = self.heads * element.area, self.heads * element.q_len * element.kv_len
            return pse[first : first + count].reshape(1, self.heads, element.q_len, element.kv_len)
        if self.pse == "row":
            first, count = self.heads * element.kv_start, self.heads * element.kv_len
            return pse[first : first + count].reshape(1, self.heads, 1, element.kv_len)
        own = pse if pse.shape[0] == 1 else pse[element.index : element.index + 1]
        return own if self.pse == "BN" else own[..., : element.kv_len]

    def sink_tensor(self) -> Tensor | None:
        return sinks(self.heads, self.seed, self.sink_minus_inf, self.memory) if self.sink else None

    def starts_of(self, element: Element) -> tuple[int, int]:
        """q_start and kv_start: of every element, but in mode 8 of the first list entry alone."""
        alone = self.masked and self.sparse_mode == 8 and len(self.q_lens) > 1
        return (0, 0) if self.starts is None or (alone and element.index > 0) else self.starts

    def reference_arguments(self, element: Element) -> dict[str, Any]:
        """Keyword arguments of the reference and of the bounds for one element."""
        sizes = (1, self.heads, element.q_len, element.kv_len)
        bits = self.drop_mask()
        q_start, kv_start = self.starts_of(element)
        pse = self.element_pse(self.pse_tensor(), element)
        return {
            "scale": self.factor,
            "mask": self.excluded(element),
            "shift": reference.position_shift(pse, self.pse_type, *sizes, q_start=q_start, kv_start=kv_start),
            "shift_in_scale": self.pse_type == 1,
            "sink": self.sink_tensor(),
            "keep": None if bits is None else reference.kept(bits, *sizes, first=self.heads * element.area),
            "keep_prob": self.keep_prob,
        }

    def attributes(self) -> dict[str, Any]:
        """Keyword arguments of flash_attention_score."""
        query_rope, key_rope = self.rope_tensors() or (None, None)
        return {
            "query_rope": query_rope,
            "key_rope": key_rope,
            "actual_seq_qlen": cumulative(self.q_lens, self.q_zeros),
            "actual_seq_kvlen": cumulative(self.kv_lens, self.kv_zeros),
            "softmax_layout": self.softmax_layout,
            "scale": self.factor,
            "atten_mask": self.atten_mask(),
            "sparse_mode": self.sparse_mode,
            "pre_tockens": self.pre_tockens,
            "next_tockens": self.next_tockens,
            "prefix": None if self.prefix is None else list(self.prefix),
            "pse": self.pse_tensor(),
            "pse_type": self.pse_type,
            "q_start_idx": None if self.starts is None else [self.starts[0]],
            "kv_start_idx": None if self.starts is None else [self.starts[1]],
            "sink": self.sink_tensor(),
            "inner_precise": self.inner_precise,
            "keep_prob": self.keep_prob,
            "drop_mask": self.drop_mask() if self.dropout == "mask" else None,
            "seed": self.seed + 1,
            "offset": self.seed // 3,
        }

    def element_stats(self, stats: Tensor, element: Element) -> Tensor:
        """softmax_max or softmax_sum of one element as [1, N, Sq, 8], from either physical order."""
        if self.softmax_layout:
            return stats[element.rows].transpose(0, 1).unsqueeze(0)
        first, count = 8 * self.heads * element.q_start, 8 * self.heads * element.q_len
        return stats.flatten()[first : first + count].view(1, self.heads, element.q_len, 8)


def _packed(lengths: tuple[int, ...], tail: int, heads: int, dim: int, generator: torch.Generator) -> Tensor:
    used = torch.randn(sum(lengths), heads, dim, generator=generator)
    return torch.cat([used, used.new_full((tail, heads, dim), torch.nan)])


def as_bnsd(packed: Tensor, rows: slice) -> Tensor:
    """Rows of one element, [T, N, D] -> [1, N, S, D]."""
    return packed[rows].transpose(0, 1).unsqueeze(0)
