"""Every flag of the model reaches megatron-core's configuration, with Megatron-LM's defaults for what follows."""

import pytest
import torch
from torch.nn import functional as F

from ascendspeed.training import flags
from ascendspeed.training.model import transformer_config
from tests.training.settings import SMALL


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
    ],
)
def test_a_flag_reaches_the_configuration(more, field, value):
    assert getattr(config(more), field) == value


def test_no_fused_kernel_is_asked_for():
    fusions = {name: value for name, value in vars(config("--swiglu")).items() if "fusion" in name}
    assert len(fusions) > 5
    wanted = {name for name, value in fusions.items() if value}
    assert not {name for name in wanted if name not in {"cross_entropy_fusion_impl"}}, wanted
