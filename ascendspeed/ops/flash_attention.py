"""flash_attention_score: the operator with every attribute, as a function.

The names and defaults are CANN's (pre_tockens and next_tockens are spelled as in its API). What it computes is decided
by the kernel of the tensors' device; which arguments are legal by csrc/attention/rules.cpp.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from ascendspeed.ops import dropout, library  # which registers fake kernels and gradients

__all__ = ["NO_LIMIT", "FlashAttentionScoreOutput", "choose_seed", "flash_attention_score"]

NO_LIMIT = 2147483647  # pre_tockens, next_tockens: as far as there are keys


class FlashAttentionScoreOutput(NamedTuple):
    """What aclnnFlashAttentionScore returns, in the order of torch_npu.npu_fusion_attention."""

    attention_out: Tensor
    softmax_max: Tensor
    softmax_sum: Tensor
    softmax_out: Tensor


def flash_attention_score(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    drop_mask: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    sink: Tensor | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    prefix: Sequence[int] | None = None,
    actual_seq_qlen: Sequence[int] | None = None,
    actual_seq_kvlen: Sequence[int] | None = None,
    q_start_idx: Sequence[int] | None = None,
    kv_start_idx: Sequence[int] | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = NO_LIMIT,
    next_tockens: int = NO_LIMIT,
    inner_precise: int = 0,
    sparse_mode: int = 0,
    pse_type: int = 1,
    softmax_layout: str = "",
    seed: int = 0,
    offset: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
) -> FlashAttentionScoreOutput:
    """attention_out = dropout(softmax(mask(scale * Q K^T))) V, without ever holding the Sq x Skv scores.

    B batch, N = head_num query heads, Nkv key/value heads, Sq/Skv lengths, D head size of query and key, Dv of value, T
    the sum of the lengths of a packed batch. Differentiable in query, key, value, pse, sink and the rope inputs; sums
    are float32 whatever the dtype, and results do not depend on the number of threads.

    Args:
        query: [B, Sq, N*D] (BSH), [Sq, B, N*D] (SBH), [B, Sq, N, D] (BSND), [B, N, Sq, D] (BNSD) or [T, N, D] (TND,
            sequences of any lengths end to end); float16, bfloat16 or float32; any strides. D is at most 768, N 256.
        key: as query, with Skv and Nkv heads of size D. Nkv divides N; query head n reads head n // (N / Nkv).
        value: as key, with heads of size Dv <= D.
        head_num: query heads of this rank: num_attention_heads / tensor_model_parallel_size.
        input_layout: BSH, SBH, BSND, BNSD or TND, in any case.
        atten_mask: bool or uint8, 1 = position is left out. Without it nothing is masked, whatever sparse_mode says.
            Modes 0, 1: [B, N, Sq, Skv], [B, 1, Sq, Skv], [1, 1, Sq, Skv] or [Sq, Skv]; mode 5 the first two (any if
            B is 1); modes 2, 3, 4, 6, 7, 8: `compressed_atten_mask(sparse_mode)`. TND: modes 0, 1 take [longest Sq,
            longest Skv], shared by all sequences.
        actual_seq_qlen, actual_seq_kvlen: TND: where each sequence ends in query and in key: cumulative lengths, one
            for each of at most 20000 sequences, which may be empty. Where zeros end both lists, what follows the last
            sequence takes no part: its results and gradients are 0.
        softmax_layout: TND: how softmax_max and softmax_sum lie in memory, see Returns.
        prefix: mode 6 (and 5): for each batch element the number of leading keys that every row sees.
        scale: factor on Q K^T, usually D ** -0.5; not applied for you.
        pre_tockens, next_tockens: modes 0 and 4: keys a row sees to the left and right of its own position.
        inner_precise: 0, 1 or 2; a row that sees no key has attention_out 0 in each of them.
        sparse_mode: 0 mask and band, 1 mask, 2 causal from the top left, 3 causal from the bottom right, 4 band from
            the bottom right, 5 prefix with a full mask, 6 prefix; TND only (which has no mode 5): 7 the last
            sequence as in mode 4 and the others as in 3, 8 the first as in mode 4 and the others as in 2.
        keep_prob: probability of keeping an entry of the softmax, in (0, 1]; kept ones are divided by it.
        drop_mask: uint8, 1-D, one bit for each of the B*N*Sq*Skv probabilities, bit e % 8 of byte e // 8, 1 = kept,
            numbered in the order [B, N, Sq, Skv] whatever the layout (TND: the [N, Sq, Skv] of each sequence end to
            end); more bytes than needed are accepted. When
            given it is what is applied, with keep_prob as the divisor.
        seed, offset: without drop_mask and with keep_prob < 1, what the mask is generated from, tile by tile and never
            whole: `dropout_gen_mask(query, B*N*Sq*Skv, keep_prob, seed, offset)`. If both are 0, a seed is drawn from
            the default generator of query's device. The backward uses the same mask.
        pse: pse_type 1 (inside the scale) and 0 (outside): [B or 1, N, Sq or 1, Skv] of query's dtype, added to the
            scores; differentiable. 1024 rows stand for more under a causal mask, see docs/operator.md.
            TND: one dimension, the [N, Sq, Skv] or [N, Skv] of the sequences end to end.
            pse_type 2 and 3: float32 slopes [N] or [B, N]; slope * distance or slope * sqrt(distance) is subtracted.
        q_start_idx, kv_start_idx: for pse_type 2 and 3; distance is abs(j + kv_start_idx[0] - i - q_start_idx[0]).
        sink: float32 [N], one more logit per query head that carries no value; float16 or bfloat16 inputs only;
            differentiable.
        query_rope, key_rope: bfloat16 [T, N, Drope] and [T, Nkv, Drope], Drope <= D: the score of a position is
            q . k + query_rope . key_rope. TND in bfloat16 with an atten_mask only, without pse, dropout and mode 6.
        padding_mask: reserved by CANN, must be None.
        gen_mask_parallel, sync: which stream a device makes its dropout mask on; they never change a number.

    Returns:
        attention_out: query's shape with heads of size Dv, query's dtype.
        softmax_max, softmax_sum: [B, N, Sq, 8] float32, the row maximum of the scaled scores and the row sum of
            exp(score - maximum), each 8 times; the backward needs them. A row that sees no key has -FLT_MAX, FLT_MAX.
            TND: [T, N, 8]; with softmax_layout "" the memory of each sequence is [N, Sq, 8], with "TND" (also spelt
            "same_as_input") it is [Sq, N, 8], as the shape says.
        softmax_out: reserved by CANN; an empty tensor.

    Raises:
        ValueError: CANN 161001, an argument is missing that others need, or 161002, a value, shape or dtype breaks a
            rule; the message names argument, value and rule.

    Source: aclnnFlashAttentionScore, "Parameters" and "Constraints"; docs/operator.md.
    """
    before_seed = (  # in the order of the schema: names take longer to hand over than a small problem to compute
        query, key, value, head_num, input_layout, pse, drop_mask, padding_mask, atten_mask, sink, query_rope, key_rope,
        prefix, actual_seq_qlen, actual_seq_kvlen, q_start_idx, kv_start_idx, scale, keep_prob, pre_tockens,
        next_tockens, inner_precise, sparse_mode, pse_type, softmax_layout,
    )  # fmt: skip
    if keep_prob != 1.0:
        check = partial(library.check_forward, *before_seed)
        seed = choose_seed(query, drop_mask, keep_prob, seed, offset, check)
    return FlashAttentionScoreOutput(*library.forward(*before_seed, seed, offset, gen_mask_parallel, sync))


def choose_seed(
    query: Tensor, drop_mask: Tensor | None, keep_prob: float, seed: int, offset: int, check: Callable[[], None]
) -> int:
    """The seed of a call: the one given or, where dropout generates its mask and neither seed nor offset was given, one
    drawn from the default generator of query's device, after `check` found the call to be legal."""
    generated = drop_mask is None and 0 < keep_prob < 1
    if not generated or seed or offset:
        return seed
    check()
    return dropout.draw_seed(query.device)
