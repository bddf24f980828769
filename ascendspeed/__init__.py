"""AscendSpeed: Megatron-style training on Huawei Ascend and on a plain CPU.

Importing this package changes nothing outside itself. The operator is `ascendspeed.ops`, its place in megatron-core
`ascendspeed.integrations.megatron`, the training program `ascendspeed.training.pretrain_gpt`.
"""

from ascendspeed.version import __version__

__all__ = ["__version__"]
