"""The rules a configuration must satisfy that need no file, no device and no process group to be decided."""

import dataclasses
import math
from collections.abc import Iterator

from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake

__all__ = ["check"]


def check(run: RunConfig) -> None:
    """Raise `Mistake` for the first rule that `run` breaks; the message has the flag, its value and the rule."""
    for rules in (_finite, _parallelism, _masks, _rules):
        for holds, message in rules(run):
            if not holds:
                raise Mistake(message)


def _finite(run: RunConfig) -> Iterator[tuple[bool, str]]:
    """First of all, since the other rules count with these numbers."""
    for group in dataclasses.asdict(run).values():
        for name, value in group.items() if isinstance(group, dict) else ():
            if isinstance(value, float):
                yield math.isfinite(value), f"--{name.replace('_', '-')}={value} is not a finite number"


def _parallelism(run: RunConfig) -> Iterator[tuple[bool, str]]:
    """How processes, layers and micro-batches divide; one at a time, since each counts on those before it."""
    m, p = run.model, run.parallel
    tp, pp = p.tensor_model_parallel_size, p.pipeline_model_parallel_size
    for name, value in {
        "--num-layers": m.num_layers,
        "--tensor-model-parallel-size": tp,
        "--pipeline-model-parallel-size": pp,
        "--num-layers-per-virtual-pipeline-stage": p.num_layers_per_virtual_pipeline_stage,
        "--num-virtual-stages-per-pipeline-rank": p.num_virtual_stages_per_pipeline_rank,
        "--ddp-bucket-size": p.ddp_bucket_size,
        "--micro-batch-size": run.training.micro_batch_size,
        "--global-batch-size": run.training.global_batch_size,
    }.items():
        yield value is None or value > 0, f"{name}={value} is not positive"
    sizes = f"--tensor-model-parallel-size={tp}" + (f" x --pipeline-model-parallel-size={pp}" if pp > 1 else "")
    yield run.world_size % (tp * pp) == 0, f"{sizes} does not divide {run.world_size} processes"
    stages = f"--pipeline-model-parallel-size={pp}"
    yield m.num_layers % pp == 0, f"--num-layers={m.num_layers} is not divisible by {stages}"
    layers, chunks = p.num_layers_per_virtual_pipeline_stage, p.num_virtual_stages_per_pipeline_rank
    yield (
        layers is None or chunks is None,
        f"--num-layers-per-virtual-pipeline-stage={layers} and --num-virtual-stages-per-pipeline-rank={chunks} "
        "exclude each other",
    )
    interleaved = (
        f"--num-virtual-stages-per-pipeline-rank={chunks}"
        if layers is None
        else f"--num-layers-per-virtual-pipeline-stage={layers}"
    )
    divisor = run.virtual_stages if layers is None else layers
    yield (
        m.num_layers // pp % divisor == 0,
        f"{interleaved} does not divide the {m.num_layers // pp} layers of a pipeline stage "
        f"(--num-layers={m.num_layers}, {stages})",
    )
    yield (
        run.virtual_stages == 1 or pp > 1,
        f"{interleaved} interleaves pipeline stages and needs --pipeline-model-parallel-size of at least 2",
    )
    samples = run.training.micro_batch_size * run.data_parallel_size
    yield (
        run.global_batch_size % samples == 0,
        f"--global-batch-size={run.global_batch_size} is not divisible by "
        f"--micro-batch-size={run.training.micro_batch_size} x {run.data_parallel_size} data-parallel ranks",
    )
    yield (
        run.virtual_stages == 1 or run.num_microbatches % pp == 0,
        f"{interleaved} needs a number of micro-batches that {stages} divides, "
        f"but --global-batch-size={run.global_batch_size} makes {run.num_microbatches} of {samples} samples each",
    )
    recomputed = m.recompute_num_layers or 1
    chunk = (
        f"--num-layers={m.num_layers}"
        if run.layers_per_chunk == m.num_layers
        else f"the {run.layers_per_chunk} layers of a model chunk (--num-layers={m.num_layers}, {stages}"
        + (f", {interleaved})" if run.virtual_stages > 1 else ")")
    )
    yield (
        m.recompute_method != "uniform" or recomputed < 1 or run.layers_per_chunk % recomputed == 0,
        f"--recompute-num-layers={recomputed} does not divide {chunk}, as --recompute-method uniform needs",
    )
    yield (
        m.recompute_method != "block" or recomputed <= run.layers_per_chunk,
        f"--recompute-num-layers={recomputed} is more than {chunk}, and --recompute-method block counts in each chunk",
    )
    yield (
        p.ddp_bucket_size is None or p.overlap_grad_reduce,
        f"--ddp-bucket-size={p.ddp_bucket_size} has no effect without --overlap-grad-reduce",
    )
    yield m.bf16 or not p.grad_reduce_in_bf16, "--grad-reduce-in-bf16 needs --bf16"
    yield (
        not p.overlap_param_gather or (p.overlap_grad_reduce and p.use_distributed_optimizer),
        "--overlap-param-gather needs --overlap-grad-reduce and --use-distributed-optimizer",
    )


def _masks(run: RunConfig) -> Iterator[tuple[bool, str]]:
    """What a token sees: which ways of saying so go together, and whether each has an effect."""
    m, d = run.model, run.data
    window, skips = m.window_size, m.window_attn_skip_freq
    text = "" if window is None else f"--window-size={window[0]},{window[1]}"
    yield window is None or window[1] == 0, f"{text}: the layers are causal and see no later key; RIGHT must be 0"
    yield (
        window is None or 0 <= window[0] < m.seq_length - 1,
        f"{text} has no effect at --seq-length={m.seq_length}: no token is more than {m.seq_length - 1} keys away; "
        "leave it out, or give a smaller LEFT",
    )
    yield (
        window is None or not d.prefix_lm,
        f"{text} and --prefix-lm exclude each other: the operator has no window around a prefix",
    )
    listed = f"--window-attn-skip-freq={list(skips) if isinstance(skips, tuple) else skips}"
    yield skips is None or window is not None, f"{listed} has no effect without --window-size"
    yield skips != 1, f"{listed} leaves no layer a window; leave --window-size out"
    yield (
        not isinstance(skips, tuple) or len(skips) == m.num_layers,
        f"{listed} has {len(skips) if isinstance(skips, tuple) else 0} entries for --num-layers={m.num_layers}",
    )
    yield not isinstance(skips, tuple) or any(skips), f"{listed} leaves no layer a window; leave --window-size out"
    kind = m.position_embedding_type
    yield (
        not d.reset_position_ids or d.reset_attention_mask or kind == "learned_absolute",
        f"--reset-position-ids has no effect with --position-embedding-type={kind}, whose positions are differences; "
        "give --reset-attention-mask, or leave it out",
    )
    yield not d.prefix_lm or d.prefix_end_token is not None, "--prefix-lm needs --prefix-end-token"
    yield (
        d.prefix_lm or d.prefix_end_token is None,
        f"--prefix-end-token={d.prefix_end_token} has no effect without --prefix-lm",
    )


def _rules(run: RunConfig) -> list[tuple[bool, str]]:
    # Every rule is computed before the first broken one is reported, so max() keeps the later divisions possible.
    m, p, t, o, r = run.model, run.parallel, run.training, run.optimizer, run.report
    tp = p.tensor_model_parallel_size
    heads, groups = max(1, m.num_attention_heads), max(1, m.query_groups)
    rotated = int(m.head_size * m.rotary_percent)
    mlp_width = f"--ffn-hidden-size={m.mlp_width}" + ("" if m.ffn_hidden_size else " (its default here)")
    positive = {
        "--hidden-size": m.hidden_size,
        "--num-attention-heads": m.num_attention_heads,
        "--num-query-groups": m.num_query_groups,
        "--seq-length": m.seq_length,
        "--ffn-hidden-size": m.ffn_hidden_size,
        "--kv-channels": m.kv_channels,
        "--rotary-base": m.rotary_base,
        "--recompute-num-layers": m.recompute_num_layers,
        "--make-vocab-size-divisible-by": m.make_vocab_size_divisible_by,
        "--padded-vocab-size": m.padded_vocab_size,
        "--distributed-timeout-minutes": p.distributed_timeout_minutes,
        "--train-iters": t.train_iters,
        "--exit-interval": t.exit_interval,
        "--lr-decay-iters": o.lr_decay_iters,
        "--vocab-size": run.data.vocab_size,
        "--save-interval": run.checkpoint.save_interval,
        "--log-interval": r.log_interval,
        "--eval-interval": r.eval_interval,
    }
    rules = [(value is None or value > 0, f"{name}={value} is not positive") for name, value in positive.items()]
    fractions = {
        "--rotary-percent": m.rotary_percent,
        "--lr-warmup-fraction": o.lr_warmup_fraction,
    }
    rules += [(v is None or 0 <= v <= 1, f"{name}={v} is not between 0 and 1") for name, v in fractions.items()]
    below_1 = {
        "--attention-dropout": m.attention_dropout,
        "--hidden-dropout": m.hidden_dropout,
        "--adam-beta1": o.adam_beta1,
        "--adam-beta2": o.adam_beta2,
    }
    rules += [(0 <= v < 1, f"{name}={v} is not at least 0 and below 1") for name, v in below_1.items()]
    not_negative = {
        "--norm-epsilon": m.norm_epsilon,
        "--init-method-std": m.init_method_std,
        "--weight-decay": o.weight_decay,
        "--clip-grad": o.clip_grad,
        "--adam-eps": o.adam_eps,
        "--eval-iters": r.eval_iters,
        "--num-workers": run.data.num_workers,
    }
    rules += [(value >= 0, f"{name}={value} is negative") for name, value in not_negative.items()]
    rules += [
        (
            m.hidden_size % heads == 0 or m.kv_channels is not None,
            f"--num-attention-heads={heads} does not divide --hidden-size={m.hidden_size}; or give --kv-channels",
        ),
        (
            (m.padded_vocab_size or 0) % tp == 0,
            f"--padded-vocab-size={m.padded_vocab_size} is not divisible by --tensor-model-parallel-size={tp}",
        ),
        (heads % tp == 0, f"--num-attention-heads={heads} is not divisible by --tensor-model-parallel-size={tp}"),
        (
            m.group_query_attention or m.num_query_groups == 1,
            f"--num-query-groups={m.num_query_groups} has no effect without --group-query-attention",
        ),
        (heads % groups == 0, f"--num-query-groups={groups} does not divide --num-attention-heads={heads}"),
        (
            groups % tp == 0 or tp % groups == 0,
            f"--num-query-groups={groups} neither divides nor is divisible by --tensor-model-parallel-size={tp}",
        ),
        (
            m.mlp_width > 0,
            f"--hidden-size={m.hidden_size} with --swiglu gives an MLP of width {m.mlp_width}; give --ffn-hidden-size",
        ),
        (
            m.mlp_width % tp == 0,
            f"{mlp_width} is not divisible by --tensor-model-parallel-size={tp}",
        ),
        (
            m.max_position_embeddings >= m.seq_length,
            f"--max-position-embeddings={m.max_position_embeddings} is less than --seq-length={m.seq_length}",
        ),
        (not p.sequence_parallel or tp > 1, "--sequence-parallel needs --tensor-model-parallel-size of at least 2"),
        (
            not p.sequence_parallel or m.seq_length % tp == 0,
            f"--seq-length={m.seq_length} is not divisible by --tensor-model-parallel-size={tp}, "
            "as --sequence-parallel needs",
        ),
        (
            m.recompute_granularity == "full" or (m.recompute_method is None and m.recompute_num_layers is None),
            "--recompute-method and --recompute-num-layers need --recompute-granularity full",
        ),
        (
            m.recompute_granularity != "full"
            or (m.recompute_method is not None and m.recompute_num_layers is not None),
            "--recompute-granularity full needs --recompute-method and --recompute-num-layers",
        ),
        (
            not m.recompute_activations or m.recompute_granularity == "selective",
            "--recompute-activations is --recompute-granularity selective, "
            f"but --recompute-granularity={m.recompute_granularity} is given",
        ),
        (
            not m.use_rotary_position_embeddings or m.position_embedding_type == "rope",
            "--use-rotary-position-embeddings is --position-embedding-type rope, "
            f"but --position-embedding-type={m.position_embedding_type} is given",
        ),
        (
            m.position_embedding_type != "rope" or rotated % 2 == 0,
            f"rotary position embeddings rotate pairs, but --rotary-percent={m.rotary_percent} of a head of size "
            f"{m.head_size} (--kv-channels) is {rotated}",
        ),
        (0 <= t.seed < 2**32, f"--seed={t.seed} is not between 0 and 2**32 - 1"),
        (0 <= o.min_lr <= o.lr, f"--min-lr={o.min_lr} is not between 0 and --lr={o.lr}"),
        (0 <= o.lr_warmup_init <= o.lr, f"--lr-warmup-init={o.lr_warmup_init} is not between 0 and --lr={o.lr}"),
        (
            o.lr_warmup_fraction is None or o.lr_warmup_iters == 0,
            "--lr-warmup-fraction and --lr-warmup-iters exclude each other",
        ),
        (
            0 <= run.lr_warmup_iters < max(1, run.lr_decay_iters),
            f"a warm-up of {run.lr_warmup_iters} iterations is not shorter than --lr-decay-iters={run.lr_decay_iters}",
        ),
        (
            len(run.data.data_path) <= 1,
            f"--data-path: {len(run.data.data_path)} paths; blending of several is not there yet, pass one",
        ),
        (
            run.checkpoint.load is not None or not run.checkpoint.exit_on_missing_checkpoint,
            "--exit-on-missing-checkpoint needs --load",
        ),
    ]
    return rules
