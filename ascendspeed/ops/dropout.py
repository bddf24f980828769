"""Dropout masks as the operator numbers and packs them, and where a seed comes from when the caller names none."""

import torch
from torch import Tensor

__all__ = ["draw_seed", "dropout_gen_mask"]


def draw_seed(device: torch.device | str = "cpu") -> int:
    """A seed in 1..2^62 - 1 from the default generator of `device`, so that torch.manual_seed and RNG trackers rule it.

    Meta tensors have no numbers and so no generator: their seed is 1.
    """
    if torch.device(device).type == "meta":
        return 1
    return int(torch.randint(1, 2**62, (), device=device).item())


def dropout_gen_mask(like: Tensor, numel: int, keep_prob: float, seed: int, offset: int = 0) -> Tensor:
    """The packed mask that `flash_attention_score(keep_prob=, seed=, offset=)` applies without ever holding it.

    Args:
        like: any tensor on the wanted device.
        numel: number of probabilities, B*N*Sq*Skv.
        keep_prob: probability that a bit is 1, in (0, 1]; exact to 2^-32.
        seed, offset: key and upper counter words of Philox4x32-10.

    Returns:
        uint8 [ceil(numel / 128) * 16], bit e % 8 of byte e // 8 for probability e, 1 = kept; bits past numel are 0.

    Raises:
        ValueError: CANN 161002, keep_prob or numel out of range.
    """
    return torch.ops.ascendspeed.dropout_gen_mask(like, numel, keep_prob, seed, offset)
