"""The operator inside megatron-core, through its layer spec; nothing of Megatron is patched here."""

from ascendspeed.integrations.megatron.attention import AscendDotProductAttention
from ascendspeed.integrations.megatron.contract import AttentionContractError, report_attention_contract
from ascendspeed.integrations.megatron.layer_spec import get_gpt_layer_spec

__all__ = ["AscendDotProductAttention", "AttentionContractError", "get_gpt_layer_spec", "report_attention_contract"]
