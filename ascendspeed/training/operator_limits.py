"""Whether the attention operator takes the attention of a run, asked of the operator itself before any data is read.

Its limits are written in the operator alone. Tensors without storage are enough for its checks, so nothing is computed.
"""

import torch

from ascendspeed.integrations.megatron.heads import local_heads
from ascendspeed.integrations.megatron.masks import plan_attention
from ascendspeed.ops import flash_attention_score
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake

__all__ = ["check"]


def check(run: RunConfig) -> None:
    """`Mistake` with the operator's own words if it refuses one rank's attention of one micro-batch of `run`."""
    m, tp, batch = run.model, run.parallel.tensor_model_parallel_size, run.training.micro_batch_size
    heads = local_heads(m.num_attention_heads, m.query_groups, tp)
    nowhere = torch.device("meta")
    dtype = torch.bfloat16 if m.bf16 else torch.float32
    plan = plan_attention(
        "causal", None, batch_size=batch, query_length=m.seq_length, key_length=m.seq_length, device=nowhere
    )
    query, key = (
        torch.empty(m.seq_length, batch, count * m.head_size, dtype=dtype, device=nowhere)
        for count in (heads.head_num, heads.query_groups)
    )
    try:
        flash_attention_score(
            query,
            key,
            key,
            heads.head_num,
            plan.layout,
            atten_mask=plan.atten_mask,
            scale=m.head_size**-0.5,
            keep_prob=1 - m.attention_dropout,
            seed=1,  # none is drawn: the generators are not touched
            sparse_mode=plan.sparse_mode,
        )
    except (ValueError, NotImplementedError) as error:
        raise Mistake(
            f"the attention operator does not take --seq-length={m.seq_length} with "
            f"--num-attention-heads={m.num_attention_heads} of size {m.head_size} "
            f"on {tp} tensor-parallel ranks: {error}"
        ) from None
