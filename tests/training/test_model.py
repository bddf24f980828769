"""Every flag of the model reaches megatron-core's configuration, with Megatron-LM's defaults for what follows."""

import pytest
import torch
from torch.nn import functional as F

from ascendspeed.training import flags
from ascendspeed.training.fake_world import fake_world
from ascendspeed.training.initialize import world
from ascendspeed.training.model import build, build_chunk, transformer_config
from tests.training.settings import SMALL

INTERLEAVED = (
    "--pipeline-model-parallel-size 2 --num-layers 4 --global-batch-size 4 --num-virtual-stages-per-pipeline-rank"
)


def config(more: str = ""):
    return transformer_config(flags.parse([*SMALL, *more.split()], world_size=2))


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ("--num-layers 3", "num_layers", 3),
        ("--hidden-size 64", "hidden_size", 64),
        ("", "num_query_groups", 4),
        ("--group-query-attention --num-query-groups 2", "num_query_groups", 2),
        ("--kv-channels 24", "kv_channels", 24),
        ("", "kv_channels", 8),
        ("", "ffn_hidden_size", 128),
        ("--hidden-size 256 --swiglu", "ffn_hidden_size", 640),
        ("--ffn-hidden-size 40 --swiglu", "ffn_hidden_size", 40),
        ("--window-size 7,0", "window_size", (7, 0)),
        ("--window-size 7,0 --window-attn-skip-freq 2", "window_attn_skip_freq", 2),
        ("--window-size 7,0 --window-attn-skip-freq [1,0]", "window_attn_skip_freq", [1, 0]),
        ("--swiglu", "gated_linear_unit", True),
        ("--swiglu", "activation_func", F.silu),
        ("", "activation_func", F.gelu),
        ("--normalization RMSNorm", "normalization", "RMSNorm"),
        ("--norm-epsilon 1e-6", "layernorm_epsilon", 1e-6),
        ("--disable-bias-linear", "add_bias_linear", False),
        ("--add-qkv-bias", "add_qkv_bias", True),
        ("--qk-layernorm", "qk_layernorm", True),
        ("--hidden-dropout 0.2", "hidden_dropout", 0.2),
        ("--use-cpu-initialization", "use_cpu_initialization", True),
        ("--init-method-std 0.01", "init_method_std", 0.01),
        ("--bf16", "params_dtype", torch.bfloat16),
        ("", "params_dtype", torch.float32),
        ("--tensor-model-parallel-size 2 --sequence-parallel", "sequence_parallel", True),
        ("--recompute-granularity selective", "recompute_granularity", "selective"),
        ("--pipeline-model-parallel-size 2", "pipeline_model_parallel_size", 2),
        ("--pipeline-model-parallel-size 2", "virtual_pipeline_model_parallel_size", None),
        (f"{INTERLEAVED} 2", "virtual_pipeline_model_parallel_size", 2),
        (f"{INTERLEAVED} 2", "overlap_p2p_comm", True),
    ],
)
def test_a_flag_reaches_the_configuration(more, field, value):
    assert getattr(config(more), field) == value


def test_no_fused_kernel_is_asked_for():
    fusions = {name: value for name, value in vars(config("--swiglu")).items() if "fusion" in name}
    assert len(fusions) > 5
    wanted = {name for name, value in fusions.items() if value}
    assert not {name for name in wanted if name not in {"cross_entropy_fusion_impl"}}, wanted


@pytest.mark.parametrize(
    ("more", "field", "value"),
    [
        ("", "overlap_grad_reduce", False),
        ("--overlap-grad-reduce", "overlap_grad_reduce", True),
        ("--overlap-grad-reduce --ddp-bucket-size 999", "bucket_size", 999),
        ("--use-distributed-optimizer", "use_distributed_optimizer", True),
        ("--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather", "overlap_param_gather", True),
        ("--bf16", "grad_reduce_in_fp32", True),
        ("--bf16 --grad-reduce-in-bf16", "grad_reduce_in_fp32", False),
    ],
)
def test_a_flag_reaches_the_gradient_buffers(more, field, value):
    run = flags.parse([*SMALL, *more.split()], world_size=1)
    with world(run) as device:
        (chunk,) = build(run, device, vocab_size=100)
    assert getattr(chunk.ddp_config, field) == value
    assert (len(chunk.buffers[0].buckets) > 1) == ("--ddp-bucket-size" in more)


@pytest.mark.usefixtures("no_process_group")
@pytest.mark.parametrize("chunks", [1, 2])
def test_all_stages_together_are_the_model_and_can_be_counted_without_memory(chunks):
    """One layer after the other, one embedding, one output layer; every stage alone, as if the others were there."""
    layers, ends = [], []
    for rank in range(2):
        more = f"{INTERLEAVED} {chunks} --use-cpu-initialization".split()
        run = flags.parse([*SMALL, *more], world_size=2)
        with fake_world(run, rank), torch.device("meta"):
            found = [build_chunk(run, transformer_config(run), 100, chunk) for chunk in range(chunks)]
        assert all(parameter.is_meta for gpt in found for parameter in gpt.parameters())
        layers.append([[layer.layer_number for layer in gpt.decoder.layers] for gpt in found])
        ends.append([(gpt.pre_process, gpt.post_process) for gpt in found])
    assert layers == {1: [[[1, 2]], [[3, 4]]], 2: [[[1], [3]], [[2], [4]]]}[chunks]
    none, first, last = (False, False), (True, False), (False, True)
    assert ends == {1: [[first], [last]], 2: [[first, none], [none, last]]}[chunks]
