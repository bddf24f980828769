"""The operator as DeepSpeed Ulysses' local attention, and our GPT under ZeRO. Needs the extra `deepspeed`.

Nothing of DeepSpeed is loaded before it is used. docs/deepspeed.md has an example.
"""

from ascendspeed.integrations.deepspeed.engine import initialize
from ascendspeed.integrations.deepspeed.sequence import local_slice, sequence_parallel_group, slice_loss
from ascendspeed.integrations.deepspeed.ulysses import UlyssesAttention, distribute_sequence

__all__ = [
    "UlyssesAttention",
    "distribute_sequence",
    "initialize",
    "local_slice",
    "sequence_parallel_group",
    "slice_loss",
]
