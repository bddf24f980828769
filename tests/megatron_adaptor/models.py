"""Tiny GPT models as users build them, with the adaptor's attention and with Megatron's own."""

import zlib
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.transformer_config import TransformerConfig

ATTENTION = "megatron.core.transformer.dot_product_attention:DotProductAttention.__init__"
LENGTH, VOCAB = 16, 32


def _named():
    """A spec that names the class, which this module has imported before the adaptor."""
    spec = get_gpt_layer_local_spec()
    spec.submodules.self_attention.submodules.core_attention = DotProductAttention
    return spec


SPECS = {"local": get_gpt_layer_local_spec, "named": _named, "te": get_gpt_layer_with_transformer_engine_spec}


@dataclass(frozen=True)
class Step:
    """One forward and backward on this rank."""

    loss: float
    gradients: dict
    attention: set
    norms_marked: bool  # every weight of a norm is summed over the ranks under sequence parallelism


def step_of_each(kinds, sequence_parallel):
    """On every rank of a world: {(kind, sequence_parallel, ours): Step}."""
    import ascendspeed.megatron_adaptor as adaptor  # after Megatron

    adaptor.install()
    ranks = dist.get_world_size()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks)
    steps = {}
    for ours in (True, False):
        if not ours:
            adaptor.restore(ATTENTION)
        for kind in kinds:
            for parallel in sequence_parallel:
                steps[kind, parallel, ours] = _step(SPECS[kind](), ranks, parallel)
    adaptor.restore()
    return steps


def _step(spec, ranks, sequence_parallel) -> Step:
    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=1,
        hidden_size=32,
        num_attention_heads=4,
        num_query_groups=2,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        masked_softmax_fusion=False,
        tensor_model_parallel_size=ranks,
        sequence_parallel=sequence_parallel,
        persist_layer_norm=False,
    )
    model = GPTModel(config, spec, vocab_size=VOCAB, max_sequence_length=LENGTH, position_embedding_type="rope").cuda()
    for name, parameter in model.named_parameters():
        if "norm" not in name:  # ones and zeros, under names that depend on the spec
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + dist.get_rank())
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    tokens = torch.arange(2 * LENGTH, device="cuda").view(2, LENGTH) * 7 % VOCAB
    positions = torch.arange(LENGTH, device="cuda").expand(2, -1)
    seen = set()
    hooks = [
        module.register_forward_hook(lambda module, *_: seen.add(type(module).__name__))
        for module in model.modules()
        if type(module).__name__.endswith("DotProductAttention")
    ]
    loss = model(tokens, positions, None, labels=tokens.roll(-1, 1)).float().mean()
    loss.backward()
    for hook in hooks:
        hook.remove()
    named = dict(model.named_parameters())
    norms = [p for n, p in named.items() if "norm" in n]
    assert len(norms) >= 4
    marked = all(getattr(norm, "sequence_parallel", False) for norm in norms)
    gradients = {name: parameter.grad.cpu() for name, parameter in named.items()}
    return Step(loss.item(), gradients, seen, marked)
