"""Whether the attention operator takes the attention of a run, asked of the operator itself before any data is read.

Its limits are written in the operator alone. Tensors without storage are enough for its checks, so nothing is computed.
"""

import torch

from ascendspeed.integrations.megatron.alibi import alibi_slopes
from ascendspeed.integrations.megatron.heads import local_heads
from ascendspeed.integrations.megatron.masks import plan_attention
from ascendspeed.integrations.megatron.packed import documents_of
from ascendspeed.ops import flash_attention_score
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.masks import mask_kind, packed_seq_params
from ascendspeed.training.mistakes import Mistake

__all__ = ["check"]


def check(run: RunConfig) -> None:
    """`Mistake` with the operator's own words if it refuses one rank's attention of one micro-batch of `run`.

    A packed micro-batch is asked for with one document in each sample; how many there are only the data knows.
    """
    m, tp, batch = run.model, run.parallel.tensor_model_parallel_size, run.training.micro_batch_size
    heads = local_heads(m.num_attention_heads, m.query_groups, tp)
    nowhere = torch.device("meta")
    dtype = torch.bfloat16 if m.bf16 else torch.float32
    packed, tokens = run.data.reset_attention_mask, m.seq_length * batch
    ends = torch.arange(0, tokens + 1, m.seq_length)
    try:
        plan = plan_attention(
            mask_kind(run),
            torch.zeros(batch, dtype=torch.int64) if run.data.prefix_lm else None,
            batch_size=1 if packed else batch,
            query_length=tokens if packed else m.seq_length,
            key_length=tokens if packed else m.seq_length,
            device=nowhere,
            window_size=m.window_size,
            documents=documents_of(packed_seq_params(ends), tokens, tokens) if packed else None,
            slopes=alibi_slopes(m.num_attention_heads)[: heads.head_num]
            if m.position_embedding_type == "alibi"
            else None,
        )
        query, key = (
            torch.empty(tokens, count, m.head_size, dtype=dtype, device=nowhere)
            if packed
            else torch.empty(m.seq_length, batch, count * m.head_size, dtype=dtype, device=nowhere)
            for count in (heads.head_num, heads.query_groups)
        )
        flash_attention_score(
            query,
            key,
            key,
            heads.head_num,
            plan.layout,
            atten_mask=plan.atten_mask,
            prefix=plan.prefix,
            actual_seq_qlen=plan.actual_seq_qlen,
            actual_seq_kvlen=plan.actual_seq_kvlen,
            pse=plan.pse,
            pse_type=plan.pse_type,
            scale=m.head_size**-0.5,
            keep_prob=1 - m.attention_dropout,
            seed=1,  # none is drawn: the generators are not touched
            pre_tockens=plan.pre_tockens,
            next_tockens=plan.next_tockens,
            sparse_mode=plan.sparse_mode,
        )
    except (ValueError, NotImplementedError) as error:
        raise Mistake(
            f"the attention operator does not take --seq-length={m.seq_length} with "
            f"--num-attention-heads={m.num_attention_heads} of size {m.head_size} "
            f"on {tp} tensor-parallel ranks: {error}"
        ) from None
