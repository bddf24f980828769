"""The compressed attention masks that sparse modes 2, 3, 4, 6, 7 and 8 take instead of one of the scores' size.

Their content is fixed by CANN and stands for any lengths; the mode decides what is visible. 1 = excluded.
"""

import torch
from torch import Tensor

__all__ = ["compressed_atten_mask"]

_SIZE = 2048
_PREFIX_ROWS = 1024
_TRIANGLE_MODES = (2, 3, 4, 7, 8)
_PREFIX_MODE = 6


def compressed_atten_mask(sparse_mode: int, device: torch.device | str = "cpu") -> Tensor:
    """The bool mask that `sparse_mode` takes, made once per device and shared: do not write to it.

    Args:
        sparse_mode: 2, 3, 4, 7 or 8 for the [2048, 2048] triangle, which is True above the diagonal; 6 for [3072,
            2048], the same triangle over 1024 rows that are False in columns 0-1023 and True after.
        device: where the mask lives.

    Raises:
        ValueError: for a mode that takes a mask of the scores' size, or none.
    """
    if sparse_mode not in (*_TRIANGLE_MODES, _PREFIX_MODE):
        raise ValueError(f"sparse_mode={sparse_mode} takes no compressed mask; modes 2, 3, 4, 6, 7 and 8 do")
    key = (sparse_mode == _PREFIX_MODE, torch.device(device))
    if type(torch.empty(0)) is not Tensor:  # fake tensors are being made: they belong to their trace alone
        return _make(*key)
    if key not in _made:
        with torch.inference_mode(False):  # an inference tensor could not be saved for a later backward
            _made[key] = _make(*key)
    return _made[key]


_made: dict[tuple[bool, torch.device], Tensor] = {}


def _make(prefix: bool, device: torch.device) -> Tensor:
    triangle = torch.ones(_SIZE, _SIZE, dtype=torch.bool, device=device).triu(diagonal=1)
    if not prefix:
        return triangle
    below = torch.zeros(_PREFIX_ROWS, _SIZE, dtype=torch.bool, device=device)
    below[:, _PREFIX_ROWS:] = True
    return torch.cat([triangle, below])
