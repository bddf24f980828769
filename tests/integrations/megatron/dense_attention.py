"""Megatron's DotProductAttention with what it lacks to be compared with: ALiBi, and the operator's dropout bits."""

import torch
from megatron.core import parallel_state
from megatron.core.transformer.dot_product_attention import DotProductAttention
from torch import Tensor

from ascendspeed.ops import draw_seed, dropout_gen_mask, reference

__all__ = ["DenseAttention"]


class DenseAttention(DotProductAttention):
    """megatron-core's own attention; scores, dense mask, softmax and matrix products are its code."""

    def add_alibi(self) -> None:
        """Subtract slope * |i - j| from the scaled scores; 4 heads have the slopes 2 ** -2, -4, -6 and -8."""
        first = parallel_state.get_tensor_model_parallel_rank() * self.num_attention_heads_per_partition
        slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
        self.scale_mask_softmax = _Shifted(
            self.scale_mask_softmax, slopes[first : first + self.num_attention_heads_per_partition]
        )

    def drop_by_the_operators_bits(self, probability: float) -> None:
        """Draw a seed where Megatron draws its mask, from the same generator, and drop what the operator would."""
        self.attention_dropout = _OperatorsDropout(probability)


class _Shifted(torch.nn.Module):
    def __init__(self, softmax: torch.nn.Module, slopes: Tensor) -> None:
        super().__init__()
        self.softmax, self.slopes = softmax, slopes

    def forward(self, scores: Tensor, mask: Tensor | None, offset: Tensor | None = None) -> Tensor:
        i = torch.arange(scores.shape[2])
        shift = -self.slopes.view(-1, 1, 1) * (i - i.view(-1, 1)).abs()
        return self.softmax(scores.float() + shift.to(scores.device), mask, offset).to(scores.dtype)


class _OperatorsDropout(torch.nn.Module):
    """documents: the lengths of each sample's documents, set before each micro-batch."""

    documents: tuple[list[int], ...]

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.keep_prob = 1 - probability

    def forward(self, probabilities: Tensor) -> Tensor:
        batch, heads, length, _ = probabilities.shape
        if all(len(lengths) == 1 for lengths in self.documents):  # numbered through the samples
            spans = [(slice(0, batch), 0, length)]
        else:  # packed: numbered through the documents
            spans = [
                (slice(sample, sample + 1), sum(lengths[:d]), lengths[d])
                for sample, lengths in enumerate(self.documents)
                for d in range(len(lengths))
            ]
        numbers = sum((s.stop - s.start) * heads * size * size for s, _, size in spans)
        seed = draw_seed(probabilities.device)
        bits = dropout_gen_mask(probabilities, numbers, self.keep_prob, seed).cpu()
        keep = torch.zeros(probabilities.shape)
        first = 0
        for samples, start, size in spans:
            own = reference.kept(bits, samples.stop - samples.start, heads, size, size, first=first)
            keep[samples, :, start : start + size, start : start + size] = own.float()
            first += own.numel()
        return probabilities * (keep / self.keep_prob).to(probabilities)
