"""Attention problems over the whole attribute space, for every test of the operator.

A `Case` is one problem: sizes, dtype, layout, memory layout, mask and scale. `cases()` draws them with hypothesis;
`Case.tensors()` makes the inputs from its seed, so a failing example reproduces from its printed form alone.
"""

import dataclasses
import math

import torch
from hypothesis import strategies as st
from torch import Tensor

from ascendspeed.ops import compressed_atten_mask, reference
from ascendspeed.ops.layout import from_bnsd, to_bnsd
from tests.support.operator import dropout_gen_mask

LAYOUTS = ("BSH", "SBH", "BSND", "BNSD")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MASK_SHAPES = ("BNSS", "B1SS", "11SS", "SS")
MEMORY = ("contiguous", "permuted", "sliced", "expanded")


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem. Lengths: Sq, Skv; heads: N, Nkv; head sizes: D, Dv."""

    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    q_len: int = 1
    kv_len: int = 1
    qk_dim: int = 1
    v_dim: int = 1
    dtype: torch.dtype = torch.float32
    layout: str = "BNSD"
    memory: str = "contiguous"
    masked: bool = False
    sparse_mode: int = 0
    mask_shape: str = "SS"
    mask_density: float = 0.3
    mask_dtype: torch.dtype = torch.bool
    pre_tockens: int = 2147483647
    next_tockens: int = 2147483647
    prefix: tuple[int, ...] | None = None
    scale: float | None = None
    pse: str | None = None  # "BNSS", "1NSS", "BN1S", "1N1S" a tensor; "N", "BN" slopes
    pse_type: int = 1
    starts: tuple[int, int] | None = None  # q_start_idx, kv_start_idx
    sink: bool = False
    sink_minus_inf: bool = False  # of every second head
    inner_precise: int = 0
    keep_prob: float = 1.0
    dropout: str = "none"  # "mask": packed bits are passed, "seed": they are generated
    seed: int = 0

    @property
    def factor(self) -> float:
        return self.qk_dim**-0.5 if self.scale is None else self.scale

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """query, key, value and dy in `layout`, with strides as `memory` says."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(heads: int, length: int, dim: int) -> Tensor:
            bnsd = torch.randn(self.batch, heads, length, dim, generator=generator).to(self.dtype)
            return from_bnsd(bnsd, self.layout)

        query = arrange(draw(self.heads, self.q_len, self.qk_dim), self.memory)
        key = arrange(draw(self.kv_heads, self.kv_len, self.qk_dim), self.memory)
        value = arrange(draw(self.kv_heads, self.kv_len, self.v_dim), self.memory)
        # An expanded dy would be the same for every sample; the inputs are.
        dy = arrange(draw(self.heads, self.q_len, self.v_dim), unless_expanded(self.memory))
        return query, key, value, dy

    def atten_mask(self) -> Tensor | None:
        if not self.masked:
            return None
        if self.sparse_mode in (2, 3, 4, 6):
            return compressed_atten_mask(self.sparse_mode).to(self.mask_dtype)
        generator = torch.Generator().manual_seed(self.seed + 1)
        leading = {"BNSS": (self.batch, self.heads), "B1SS": (self.batch, 1), "11SS": (1, 1), "SS": ()}
        shape = (*leading[self.mask_shape], self.q_len, self.kv_len)
        mask = torch.rand(shape, generator=generator) < self.mask_density
        mask |= torch.rand((*shape[:-1], 1), generator=generator) < 0.05  # some rows see nothing
        # Any non-zero byte excludes.
        mask = mask if self.mask_dtype == torch.bool else mask.to(torch.uint8) * 3
        return arrange(mask, unless_expanded(self.memory))

    def excluded(self) -> Tensor:
        return reference.excluded(
            self.batch, self.heads, self.q_len, self.kv_len, atten_mask=self.atten_mask(),
            sparse_mode=self.sparse_mode, pre_tockens=self.pre_tockens, next_tockens=self.next_tockens,
            prefix=None if self.prefix is None else list(self.prefix),
        )  # fmt: skip

    def drop_mask(self) -> Tensor | None:
        """The packed bits that apply, whether they are passed or generated."""
        if self.dropout == "none":
            return None
        numel = self.batch * self.heads * self.q_len * self.kv_len
        if self.dropout == "seed":
            return dropout_gen_mask(torch.empty(0), numel, self.keep_prob, self.seed + 1, self.seed // 3)
        generator = torch.Generator().manual_seed(self.seed + 2)
        bits = torch.randint(256, (-(-numel // 8) + self.seed % 3,), dtype=torch.uint8, generator=generator)
        return arrange(bits, unless_expanded(self.memory))

    def pse_tensor(self) -> Tensor | None:
        if self.pse is None:
            return None
        sizes = {"B": self.batch, "N": self.heads, "1": 1}
        shape = [sizes[letter] for letter in self.pse.rstrip("S")]
        shape += {0: [], 1: [self.kv_len], 2: [self.q_len, self.kv_len]}[self.pse.count("S")]
        generator = torch.Generator().manual_seed(self.seed + 3)
        if "S" not in self.pse:
            pse = torch.rand(shape, generator=generator)
        else:
            pse = torch.randn(shape, generator=generator).to(self.dtype)
        return arrange(pse, unless_expanded(self.memory))

    def sink_tensor(self) -> Tensor | None:
        return sinks(self.heads, self.seed, self.sink_minus_inf, self.memory) if self.sink else None

    def reference_arguments(self) -> dict:
        """Keyword arguments of the reference and of the bounds."""
        sizes = (self.batch, self.heads, self.q_len, self.kv_len)
        bits = self.drop_mask()
        q_start, kv_start = self.starts or (0, 0)
        return {
            "scale": self.factor,
            "mask": self.excluded(),
            "shift": reference.position_shift(
                self.pse_tensor(), self.pse_type, *sizes, q_start=q_start, kv_start=kv_start
            ),
            "shift_in_scale": self.pse_type == 1,
            "sink": self.sink_tensor(),
            "keep": None if bits is None else reference.kept(bits, *sizes),
            "keep_prob": self.keep_prob,
        }

    def attributes(self) -> dict:
        """Keyword arguments of flash_attention_score."""
        return {
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

    def bnsd(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query-, key- and value-shaped tensors as [B, N, S, D]."""
        heads = (self.heads, self.kv_heads, self.kv_heads)
        query, key, value = (to_bnsd(t, self.layout, n) for t, n in zip((query, key, value), heads, strict=True))
        return query, key, value


def arrange(tensor: Tensor, memory: str) -> Tensor:
    """The same values with other strides."""
    if memory == "permuted":  # last dimension has a stride, first is innermost
        return tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
    if memory == "sliced":  # every second element of a larger tensor
        between = torch.nan if tensor.is_floating_point() else 1
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), between, dtype=tensor.dtype)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if memory == "expanded":  # overlapping: every position of the first dimension is the same memory
        return tensor[:1].expand_as(tensor)
    return tensor


def unless_expanded(memory: str) -> str:
    """For tensors that broadcasting dimensions of size 1 already make overlap, and whose values should differ."""
    return "contiguous" if memory == "expanded" else memory


def sinks(heads: int, seed: int, minus_inf: bool, memory: str) -> Tensor:
    """Logits [N]; with `minus_inf` those of heads 0, 2, 4 ... are -inf, which is as if the head had none."""
    logits = torch.randn(heads, generator=torch.Generator().manual_seed(seed + 4))
    if minus_inf:
        logits[::2] = -torch.inf
    return arrange(logits, unless_expanded(memory))


# Lengths on both sides of every block edge (72 rows, 96 keys) are as likely as small ones.
lengths = st.one_of(
    st.integers(1, 20), st.sampled_from([71, 72, 73, 95, 96, 97, 143, 145, 191, 193]), st.integers(1, 320)
)
# One in fifty is above 256: they cost most.
head_sizes = st.integers(0, 49).flatmap(
    lambda n: (
        st.sampled_from([257, 320, 511, 512, 513, 640, 767, 768])
        if n == 0
        else st.one_of(st.integers(1, 40), st.sampled_from([48, 63, 64, 65, 80, 96, 127, 128, 129, 192, 256]))
    )
)
rarely = st.integers(0, 7).map(lambda n: n == 0)
tokens = st.one_of(st.integers(-40, 200), st.just(2147483647), st.just(0))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Legal problems of every kind the operator has."""
    kv_heads = draw(st.integers(1, 3))
    heads = kv_heads * draw(st.integers(1, 3))
    q_len = draw(lengths)
    kv_len = draw(st.one_of(st.just(q_len), lengths))
    qk_dim = draw(head_sizes)
    batch = draw(st.integers(1, 2))
    masked = draw(st.booleans())
    mode = draw(st.integers(0, 6))
    pre, following = 2147483647, 2147483647
    if masked and mode in (0, 4) and draw(st.booleans()):
        pre, following = draw(tokens), draw(tokens)
        off = kv_len - q_len if mode == 4 else 0
        # The band must hold at least one position; CANN refuses the others (test_rules.py).
        if max(-(pre - off), 1 - q_len) > min(following + off, kv_len - 1):
            pre, following = 2147483647, 2147483647
    prefix = None
    if masked and mode in (5, 6):
        # In mode 5 the mask decides and no length is refused.
        least, most = (max(0, kv_len - q_len), kv_len) if mode == 6 else (-3, kv_len + 3)
        prefix = tuple(draw(st.integers(least, most)) for _ in range(batch))
    shapes = ("BNSS", "B1SS") if mode == 5 and batch > 1 else MASK_SHAPES
    dropout = draw(st.sampled_from(["none", "mask", "seed"]))
    dtype = draw(st.sampled_from(DTYPES))
    tensors, slopes = ["BNSS", "1NSS", "BN1S", "1N1S"], ["N", "BN"]
    pse = draw(st.sampled_from([None, *tensors, *(slopes if q_len == kv_len else [])]))
    pse_type = 1 if pse is None else draw(st.sampled_from([2, 3] if pse in slopes else [0, 1]))
    sink = dtype != torch.float32 and draw(st.booleans())
    return Case(
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=kv_len,
        qk_dim=qk_dim,
        v_dim=draw(st.one_of(st.just(qk_dim), st.integers(1, qk_dim))),
        dtype=dtype,
        layout=draw(st.sampled_from(LAYOUTS)),
        memory=draw(st.sampled_from(MEMORY)),
        masked=masked,
        sparse_mode=mode,
        mask_shape=draw(st.sampled_from(shapes)),
        mask_density=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
        mask_dtype=draw(st.sampled_from([torch.bool, torch.uint8])),
        pre_tockens=pre,
        next_tockens=following,
        prefix=prefix,
        scale=draw(st.one_of(st.none(), st.sampled_from([1.0, 0.0, -0.5, 1 / math.sqrt(3)]))),
        pse=pse,
        pse_type=pse_type,
        starts=draw(st.one_of(st.none(), st.tuples(st.integers(-9, 300), st.integers(-9, 300)))),
        sink=sink,
        sink_minus_inf=sink and draw(rarely),
        inner_precise=draw(st.integers(0, 2)),
        dropout=dropout,
        keep_prob=1.0 if dropout == "none" else draw(st.sampled_from([0.9, 0.5, 1e-3])),
        seed=draw(st.integers(0, 2**31)),
    )


def philox(counter: int, offset: int, seed: int) -> list[int]:
    """Philox4x32-10 in Python integers: the four words of counter {counter, offset} under key `seed`."""
    x = [counter % 2**32, counter >> 32, offset % 2**32, offset >> 32]
    key = [seed % 2**32, seed >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [second >> 32 ^ x[1] ^ key[0], second % 2**32, first >> 32 ^ x[3] ^ key[1], first % 2**32]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return x
