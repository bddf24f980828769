"""The settings of a run: one frozen dataclass per concern, each field one flag, Megatron-LM's unless marked (ours).

This is the only list of flags that are honoured: `flags` makes the command line of it and `docs/training.md` its table.
A field `num_layers` is the flag `--num-layers`; a bool is a switch. `RunConfig` holds the groups plus the number of
processes. What the values must satisfy is in `rules`.
"""

from dataclasses import dataclass, field
from typing import Any

from ascendspeed.training.flag_values import layer_pattern, pair_of_keys

__all__ = [
    "CheckpointConfig",
    "DataConfig",
    "DeepSpeedConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "ReportConfig",
    "RunConfig",
    "TrainingConfig",
]

_REQUIRED: Any = object()


def _flag(default: Any, help: str, **options: Any) -> Any:
    """A field that is a flag: `help` has the unit; `choices` and `nargs` are argparse's, `parse` is its `type`."""
    metadata = {"help": help, **options}
    if default is _REQUIRED:
        return field(metadata={**metadata, "required": True})
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Model."""

    num_layers: int = _flag(_REQUIRED, "transformer layers")
    hidden_size: int = _flag(_REQUIRED, "width of the residual stream, numbers per token")
    num_attention_heads: int = _flag(_REQUIRED, "query heads per layer")
    seq_length: int = _flag(_REQUIRED, "tokens per sample")
    max_position_embeddings: int = _flag(_REQUIRED, "longest sequence the positions reach, tokens; >= --seq-length")
    ffn_hidden_size: int | None = _flag(
        None, "width inside the MLP, numbers per token; 4 x hidden size, with --swiglu 8/3 of it in steps of 64"
    )
    kv_channels: int | None = _flag(None, "size of one head; hidden size / heads")
    group_query_attention: bool = _flag(False, "share key and value heads between query heads")
    num_query_groups: int = _flag(1, "key and value heads per layer, with --group-query-attention")
    position_embedding_type: str = _flag(
        "learned_absolute", "kind of position embedding", choices=("learned_absolute", "rope", "alibi", "none")
    )
    use_rotary_position_embeddings: bool = _flag(False, "the same as --position-embedding-type rope")
    rotary_base: int = _flag(10000, "period base of the rotary embedding, no unit")
    rotary_percent: float = _flag(1.0, "share of each head that is rotated, 0 to 1")
    window_size: tuple[int, int] | None = _flag(
        None,
        "sliding window LEFT,RIGHT, keys before and after the query's own; RIGHT is 0; a window of W keys is W-1,0",
        parse=pair_of_keys,
    )
    window_attn_skip_freq: int | tuple[int, ...] | None = _flag(
        None,
        "layers without the window: every N-th, or a list like [1,1,0]*4 with 0 for each of them",
        parse=layer_pattern,
    )
    normalization: str = _flag("LayerNorm", "kind of norm", choices=("LayerNorm", "RMSNorm"))
    norm_epsilon: float = _flag(1e-5, "added to the variance in a norm, no unit")
    swiglu: bool = _flag(False, "gated linear units with SiLU instead of GELU")
    disable_bias_linear: bool = _flag(False, "no bias in linear layers")
    add_qkv_bias: bool = _flag(False, "bias in the QKV projection only, with --disable-bias-linear")
    qk_layernorm: bool = _flag(False, "normalise each head's query and key")
    untie_embeddings_and_output_weights: bool = _flag(False, "an output matrix of its own")
    attention_dropout: float = _flag(0.1, "probability of dropping an attention weight, 0 to below 1")
    hidden_dropout: float = _flag(0.1, "probability of dropping a number of the residual branches, 0 to below 1")
    init_method_std: float = _flag(0.02, "standard deviation of the initial weights, no unit")
    use_cpu_initialization: bool = _flag(False, "draw the initial weights on the CPU: the same ones on every device")
    make_vocab_size_divisible_by: int = _flag(128, "vocabulary rows are padded to a multiple of this times TP, rows")
    padded_vocab_size: int | None = _flag(
        None, "vocabulary rows, whatever --make-vocab-size-divisible-by says; a multiple of TP, rows"
    )
    bf16: bool = _flag(False, "parameters and activations in bfloat16, optimizer in float32")
    recompute_activations: bool = _flag(False, "the same as --recompute-granularity selective")
    recompute_granularity: str | None = _flag(
        None,
        "what to recompute in the backward pass: the attention, or whole layers",
        choices=("selective", "full"),
    )
    recompute_method: str | None = _flag(
        None, "which layers, with --recompute-granularity full", choices=("uniform", "block")
    )
    recompute_num_layers: int | None = _flag(
        None, "layers per recomputed unit (uniform) or in all (block) of a model chunk, layers"
    )

    @property
    def query_groups(self) -> int:
        """Key and value heads per layer, all tensor-parallel ranks together."""
        return self.num_query_groups if self.group_query_attention else self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Numbers per head: --kv-channels, or the hidden size shared out."""
        return self.hidden_size // max(1, self.num_attention_heads) if self.kv_channels is None else self.kv_channels

    @property
    def mlp_width(self) -> int:
        """--ffn-hidden-size, or Megatron-LM's default for the kind of MLP; all tensor-parallel ranks together."""
        if self.ffn_hidden_size is not None:
            return self.ffn_hidden_size
        return int(4 * self.hidden_size * 2 / 3 / 64) * 64 if self.swiglu else 4 * self.hidden_size


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Parallelism."""

    tensor_model_parallel_size: int = _flag(1, "processes that share each layer, processes")
    sequence_parallel: bool = _flag(False, "split norms and dropout along the sequence over the tensor-parallel ranks")
    pipeline_model_parallel_size: int = _flag(1, "stages the layers are cut into, processes")
    num_layers_per_virtual_pipeline_stage: int | None = _flag(
        None, "interleave: layers of each of the model chunks that a pipeline stage holds, layers"
    )
    num_virtual_stages_per_pipeline_rank: int | None = _flag(
        None, "interleave: model chunks that a pipeline stage holds, the other way to say it, chunks"
    )
    overlap_grad_reduce: bool = _flag(False, "reduce gradients over the data-parallel ranks during the backward pass")
    ddp_bucket_size: int | None = _flag(
        None, "numbers per reduction, with --overlap-grad-reduce; 40 million or 1 million x data-parallel ranks"
    )
    grad_reduce_in_bf16: bool = _flag(False, "sum and reduce gradients in bfloat16 instead of float32, with --bf16")
    use_distributed_optimizer: bool = _flag(
        False, "each data-parallel rank keeps and updates its share of the optimizer's state"
    )
    overlap_param_gather: bool = _flag(
        False, "gather the updated weights during the next forward pass, with --use-distributed-optimizer"
    )
    distributed_timeout_minutes: int = _flag(10, "longest wait in a collective, minutes")
    device: str | None = _flag(None, "cpu, npu or cuda; without it the first of npu, cuda, cpu that is there (ours)")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training."""

    micro_batch_size: int = _flag(_REQUIRED, "samples per forward pass and data-parallel rank")
    global_batch_size: int | None = _flag(None, "samples per iteration; micro batch size x data-parallel ranks")
    train_iters: int = _flag(_REQUIRED, "iterations of the whole training, those before a resume included")
    exit_interval: int | None = _flag(None, "save and end at the first iteration divisible by this, iterations")
    seed: int = _flag(1234, "seed of weights, dropout and data order, 0 to 2**32 - 1")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer (Adam with decoupled weight decay)."""

    lr: float = _flag(_REQUIRED, "highest learning rate, no unit")
    min_lr: float = _flag(0.0, "learning rate at the end of the decay, no unit")
    lr_decay_style: str = _flag(
        "linear", "shape of the decay", choices=("constant", "linear", "cosine", "inverse-square-root")
    )
    lr_decay_iters: int | None = _flag(None, "iterations until --min-lr; --train-iters")
    lr_warmup_iters: int = _flag(0, "iterations of linear warm-up")
    lr_warmup_fraction: float | None = _flag(None, "warm-up as a share of --lr-decay-iters, 0 to 1")
    lr_warmup_init: float = _flag(0.0, "learning rate before the first iteration of the warm-up, no unit")
    weight_decay: float = _flag(0.01, "weight decay, a share of the weight per unit of learning rate")
    clip_grad: float = _flag(1.0, "largest global L2 norm of the gradient, no unit; 0: no clipping")
    adam_beta1: float = _flag(0.9, "decay of the mean of gradients per iteration, 0 to below 1")
    adam_beta2: float = _flag(0.999, "decay of the mean of squared gradients per iteration, 0 to below 1")
    adam_eps: float = _flag(1e-8, "added to the root of the mean square, no unit")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data."""

    data_path: tuple[str, ...] = _flag(
        (),
        "a text file, a .jsonl file or the prefix of a Megatron .bin/.idx pair; without it Python's manual",
        nargs="*",
    )
    split: str = _flag("969,30,1", "parts of the documents for training, validation and test, in any unit")
    data_cache_path: str | None = _flag(None, "folder for the prepared data; SAVE/data-cache")
    tokenizer_type: str | None = _flag(
        None,
        "what --tokenizer-model is; without both, a byte-level BPE is trained on the training documents",
        choices=("HuggingFaceTokenizer", "NullTokenizer"),
    )
    tokenizer_model: str | None = _flag(None, "a tokenizer.json, or the folder that holds one")
    vocab_size: int | None = _flag(
        None, "tokens of the BPE to train (4096), or ids in data without a tokenizer (NullTokenizer), tokens"
    )
    reset_position_ids: bool = _flag(False, "count positions from 0 in each document of a sample")
    reset_attention_mask: bool = _flag(False, "no token sees another document of its sample")
    eod_mask_loss: bool = _flag(False, "leave the prediction after an end-of-document token out of the loss")
    prefix_lm: bool = _flag(
        False, "prefix language model: what --prefix-end-token ends is seen by all tokens and not predicted (ours)"
    )
    prefix_end_token: str | None = _flag(
        None, "token that ends a prefix, the token itself or its id, with --prefix-lm (ours)"
    )
    num_workers: int = _flag(2, "processes that read samples, per rank; 0 reads in the training process")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints."""

    save: str | None = _flag(None, "folder for checkpoints, events and the loss curve")
    save_interval: int | None = _flag(None, "iterations between checkpoints; one at the end in any case")
    load: str | None = _flag(None, "folder of a checkpoint to continue; if it has none training starts anew")
    exit_on_missing_checkpoint: bool = _flag(False, "end instead of starting anew when --load has no checkpoint")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Reports and validation."""

    log_interval: int = _flag(100, "iterations per line of the log")
    tensorboard_dir: str | None = _flag(None, "folder for TensorBoard events; SAVE/tensorboard")
    eval_interval: int | None = _flag(None, "iterations between validations; without it only at the end")
    eval_iters: int = _flag(100, "global batches per validation; 0 switches validation off")
    full_validation: bool = _flag(False, "validate on the whole validation part, whatever --eval-iters says")


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    """DeepSpeed, of `ascendspeed.training.deepspeed.pretrain_gpt` alone."""

    deepspeed_config: str = _flag(_REQUIRED, "DeepSpeed's JSON file (ours)")
    zero_stage: int | None = _flag(None, "stage of ZeRO, 1, 2 or 3; what the JSON file says (ours)")
    ds_sequence_parallel_size: int = _flag(1, "processes that share each sequence, by Ulysses, processes (ours)")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run, and the number of processes it runs in."""

    model: ModelConfig
    parallel: ParallelConfig
    training: TrainingConfig
    optimizer: OptimizerConfig
    data: DataConfig
    checkpoint: CheckpointConfig
    report: ReportConfig
    world_size: int
    deepspeed: DeepSpeedConfig | None = None

    @property
    def data_parallel_size(self) -> int:
        """Processes per copy of a layer's shard, and per slice of a sequence."""
        return self.world_size // (
            self.parallel.tensor_model_parallel_size * self.parallel.pipeline_model_parallel_size * self.sequence_slices
        )

    @property
    def sequence_slices(self) -> int:
        """Processes that share each sequence, by Ulysses."""
        return 1 if self.deepspeed is None else self.deepspeed.ds_sequence_parallel_size

    @property
    def virtual_stages(self) -> int:
        """Model chunks per pipeline stage; more than one is the interleaved schedule."""
        p = self.parallel
        if p.num_layers_per_virtual_pipeline_stage is not None:
            layers = self.model.num_layers // p.pipeline_model_parallel_size
            return layers // p.num_layers_per_virtual_pipeline_stage
        return p.num_virtual_stages_per_pipeline_rank or 1

    @property
    def layers_per_chunk(self) -> int:
        """Transformer layers of one model chunk, the unit that the pipeline's schedule computes."""
        return self.model.num_layers // (self.parallel.pipeline_model_parallel_size * self.virtual_stages)

    @property
    def global_batch_size(self) -> int:
        """Samples per iteration."""
        return self.training.global_batch_size or self.training.micro_batch_size * self.data_parallel_size

    @property
    def num_microbatches(self) -> int:
        """Forward passes per iteration and rank."""
        return self.global_batch_size // (self.training.micro_batch_size * self.data_parallel_size)

    @property
    def lr_decay_iters(self) -> int:
        """Iterations until the learning rate stays at its lowest."""
        return self.optimizer.lr_decay_iters or self.training.train_iters

    @property
    def lr_warmup_iters(self) -> int:
        """Iterations of warm-up."""
        share = self.optimizer.lr_warmup_fraction
        return self.optimizer.lr_warmup_iters if share is None else int(share * self.lr_decay_iters)
