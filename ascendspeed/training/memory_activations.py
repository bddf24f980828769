"""What a rank's forward passes leave for its backward passes, in bytes, from the settings alone.

The count of Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022), for the modules
that are really used: the fused attention keeps two float32 statistics per row instead of the scores, torch's RMSNorm
two float32 copies of its input (on an NPU too), megatron-core's unfused SwiGLU five tensors of the MLP's width.

# S sequence, s sequence of a rank (S / T with sequence parallelism, else S), B micro batch, H hidden, N/G query heads
# and key/value groups of a rank, D head size, F MLP width of a rank, V vocabulary rows of a rank, T tensor-parallel
# size, E bytes per number of the activations
"""

import math
from dataclasses import dataclass

from ascendspeed.training.configs import RunConfig

__all__ = ["Activations", "activations", "in_flight"]

_FLOAT32 = 4
_INT64 = 8
_STATISTICS = 2 * 8 * _FLOAT32  # softmax_max and softmax_sum, 8 equal numbers per row and head each


@dataclass(frozen=True)
class Activations:
    """Bytes on one rank when most is kept."""

    kept: int
    """By all forward passes whose backward passes are still to come."""
    working: int
    """Besides, while a layer or the output layer is computed: gathered tensors, gradients, what is recomputed."""


def activations(run: RunConfig, stage: int, vocab_rows: int) -> Activations:
    """The activations of pipeline stage `stage`, 0 to pipeline size - 1; vocab_rows are those of all ranks together.

    Raises:
        NotImplementedError: for a setting that is not counted; the message names the flag.
    """
    _refuse_what_is_not_counted(run)
    c = _Count(run, vocab_rows)
    last = stage == run.parallel.pipeline_model_parallel_size - 1
    chunk = c.kept_by_layers(run.layers_per_chunk) + (c.embedding() if stage == 0 else c.received())
    if not last:
        return Activations(in_flight(run, stage) * chunk, c.working_in_layer())
    # What the head keeps is free again when the backward pass reaches the layers.
    working = max(c.working_in_layer() - c.head(), c.working_in_head())
    return Activations(in_flight(run, stage) * chunk + c.head(), working)


def in_flight(run: RunConfig, stage: int) -> int:
    """Forward passes of a model chunk that wait for their backward pass at once: 1F1B's warm-up and the next one."""
    stages, chunks = run.parallel.pipeline_model_parallel_size, run.virtual_stages
    later = stages - stage - 1
    warm_up = later if chunks == 1 else 2 * later + (chunks - 1) * stages
    return min(warm_up + 1, run.num_microbatches * chunks)


class _Count:
    """The sizes of a run in the letters above, and what each part of the model keeps of one micro-batch."""

    def __init__(self, run: RunConfig, vocab_rows: int) -> None:
        m, p = run.model, run.parallel
        self.run = run
        self.T = p.tensor_model_parallel_size
        self.S, self.B, self.H = m.seq_length, run.training.micro_batch_size, m.hidden_size
        self.s = self.S // self.T if p.sequence_parallel else self.S
        self.N, self.G = m.num_attention_heads // self.T, max(1, m.query_groups // self.T)
        self.D, self.F, self.V = m.head_size, m.mlp_width // self.T, vocab_rows // self.T
        self.E = 2 if m.bf16 else _FLOAT32
        self.rope = m.position_embedding_type == "rope"
        self.rotated = int(self.D * m.rotary_percent)

    @property
    def hidden(self) -> int:
        """One tensor of the residual stream."""
        return self.s * self.B * self.H * self.E

    @property
    def frequencies(self) -> int:
        """Angles of the rotary embedding, once for all layers, and an argument of what is recomputed."""
        return self.S * self.rotated * _FLOAT32 if self.rope else 0

    def kept_by_layers(self, layers: int) -> int:
        """By the layers of one model chunk, with what --recompute-* leaves of them."""
        m = self.run.model
        if m.recompute_granularity == "selective":
            return layers * self.layer(attention_recomputed=True)
        if m.recompute_granularity != "full":
            return layers * self.layer()
        at_once = m.recompute_num_layers or 1
        if m.recompute_method == "uniform":
            return math.ceil(layers / at_once) * self.hidden + self.frequencies
        recomputed = min(at_once, layers)
        return recomputed * self.hidden + (layers - recomputed) * self.layer() + self.frequencies

    def layer(self, attention_recomputed: bool = False) -> int:
        """By one layer."""
        norms = 2 * self.norm()
        dropped = 2 * self.s * self.B * self.H if self.run.model.hidden_dropout > 0 else 0  # a byte each
        return norms + self.attention(attention_recomputed) + self.mlp() + dropped

    def norm(self) -> int:
        """By a norm over the hidden size, its output, which the next matrix product keeps, included."""
        if self.run.model.normalization == "RMSNorm":
            own = self.s * self.B * (2 * self.H + 1) * _FLOAT32
        else:
            own = self.s * self.B * (self.H + 2) * self.E
        return own + self.hidden

    def attention(self, recomputed: bool) -> int:
        """Between the norm before it and the residual: query, key, value, output, statistics, rotation."""
        token = self.S * self.B * self.E
        query, groups, mixed = self.N * self.D, self.G * self.D, (self.N + 2 * self.G) * self.D
        output = token * query
        rotation = 4 * self.S * self.rotated * self.E if self.rope else 0  # cosines and sines of query and key
        # Of one group the value is a part of the projection's output, which stays as a whole; of several it is copied.
        # When attention is recomputed its arguments are kept before the copy.
        if not self.rope:
            copied = recomputed and self.G > 1 and self.N > self.G  # megatron-core's reshape of the query
            return token * (mixed + (query if copied else 0)) + output + (0 if recomputed else self.statistics)
        value = mixed if recomputed or self.G == 1 else groups
        kept = token * (query + groups + value) + output + rotation
        return kept + (0 if recomputed else self.statistics)

    @property
    def statistics(self) -> int:
        """The row maxima and sums of the softmax."""
        return self.B * self.N * self.S * _STATISTICS

    def mlp(self) -> int:
        """By the MLP without its input; megatron-core's gated one computes (linear + 0) as well."""
        return self.S * self.B * self.F * self.E * (5 if self.run.model.swiglu else 2)

    def embedding(self) -> int:
        """By the first chunk: token and position ids, which of the tokens are other ranks', what dropout leaves out."""
        m = self.run.model
        ids = self.S * self.B * _INT64 * (2 if m.position_embedding_type == "learned_absolute" else 1)
        others = self.S * self.B if self.T > 1 else 0
        return ids + others + (self.s * self.B * self.H if m.hidden_dropout > 0 else 0)

    def received(self) -> int:
        """By a chunk that gets its input from another: the input, unless its first layer counts it already."""
        m = self.run.model
        return self.hidden if m.normalization == "RMSNorm" and m.recompute_granularity != "full" else 0

    def head(self) -> int:
        """By the last norm, output layer and loss: float32 probabilities, targets and which are other ranks'."""
        return self.norm() + self.S * self.B * (self.V * _FLOAT32 + _INT64 + 1)

    def working_in_layer(self) -> int:
        """In the backward pass of the last layer, when nothing has been freed yet."""
        m, token = self.run.model, self.S * self.B * self.E
        gathered = (
            2 * token * self.H if self.s < self.S else 0
        )  # megatron-core's buffer, and the gradient of the output
        fc1 = 2 * self.F if m.swiglu else self.F
        second = token * self.F + self.H * self.F * self.E
        first = fc1 * self.H * self.E - 3 * token * self.F if m.swiglu else fc1 * self.H * self.E - token * self.F
        recomputed = 0
        if m.recompute_granularity == "full":
            layers, number = self.run.layers_per_chunk, m.recompute_num_layers or 1
            # Layers that are not recomputed are the last ones, free again when the backward pass reaches the others.
            at_once, freed = (number, 0) if m.recompute_method == "uniform" else (1, max(0, layers - number))
            # The layer's input once more, unless LayerNorm keeps it, and the output of the last layer.
            again = (m.normalization == "RMSNorm") + (freed > 0)
            recomputed = max(0, (at_once - freed) * self.layer()) + again * self.hidden - self.frequencies
        # The gradient of tied embeddings waits for its second part, the embedding's.
        tied = not m.untie_embeddings_and_output_weights and self.run.parallel.pipeline_model_parallel_size == 1
        waiting = self.V * self.H * self.E if tied else 0
        return gathered + 2 * self.hidden + max(second, first) + recomputed + self.frequencies + waiting

    def working_in_head(self) -> int:
        """In the output layer: logits beside their float32 copy; later their gradient, the input's, the weight's."""
        token = self.S * self.B * self.E
        gathered = token * self.H if self.s < self.S else 0
        # The last norm's input is still at hand; LayerNorm keeps it anyway.
        forward = token * self.V + (self.hidden if self.run.model.normalization == "RMSNorm" else 0)
        freed = self.S * self.B * self.V * _FLOAT32
        backward = token * (self.V + self.H) + self.V * self.H * self.E + self.hidden - freed
        return gathered + max(forward, backward) + self.frequencies


def _refuse_what_is_not_counted(run: RunConfig) -> None:
    m = run.model
    alibi = m.position_embedding_type == "alibi"
    for asked, flag in (
        (m.qk_layernorm, "--qk-layernorm"),
        (m.attention_dropout > 0, "--attention-dropout above 0"),
        (alibi, "--position-embedding-type alibi"),
        (run.data.reset_attention_mask, "--reset-attention-mask"),
        (run.data.prefix_lm, "--prefix-lm"),
    ):
        if asked:
            raise NotImplementedError(f"{flag}: its activations are not counted")
