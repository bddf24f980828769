"""Draw what each sparse_mode leaves visible, as the operator itself computes it, to docs/images/sparse_modes.png.

    python docs/draw_sparse_modes.py [output.png]

With the unit matrix as value, attention_out is the matrix of probabilities: visible is where it is not zero.
"""

import itertools
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from ascendspeed.ops import compressed_atten_mask, flash_attention_score

DEFAULT_OUTPUT = Path(__file__).parent / "images" / "sparse_modes.png"


def visible(q_len: int, kv_len: int, **attributes: object) -> Tensor:
    query = torch.zeros(1, 1, q_len, kv_len)
    key = torch.zeros(1, 1, kv_len, kv_len)
    value = torch.eye(kv_len).view(1, 1, kv_len, kv_len)
    return flash_attention_score(query, key, value, 1, "BNSD", **attributes).attention_out[0, 0] != 0


def visible_packed(q_lengths: list[int], kv_lengths: list[int], **attributes: object) -> Tensor:
    """The same over the whole of T: sequences are blocks along the diagonal."""
    q_ends, kv_ends = (list(itertools.accumulate(lengths)) for lengths in (q_lengths, kv_lengths))
    total = kv_ends[-1]
    query, key = torch.zeros(q_ends[-1], 1, total), torch.zeros(total, 1, total)
    output = flash_attention_score(
        query, key, torch.eye(total).unsqueeze(1), 1, "TND",
        actual_seq_qlen=q_ends, actual_seq_kvlen=kv_ends, **attributes,
    )  # fmt: skip
    return output.attention_out[:, 0] != 0


def panels() -> dict[str, Tensor]:
    nothing = torch.zeros(5, 7, dtype=torch.bool)
    blocks = torch.block_diag(*[torch.ones(3, 3)] * 3)[:7, :7] == 0  # three packed documents
    return {
        "no atten_mask, any mode": visible(5, 7),
        "0: mask and band\npre=1, next=2": visible(5, 7, atten_mask=nothing, pre_tockens=1, next_tockens=2),
        "1: the mask": visible(7, 7, atten_mask=blocks, sparse_mode=1),
        "2: causal, top left": visible(4, 6, atten_mask=compressed_atten_mask(2), sparse_mode=2),
        "3: causal, bottom right": visible(4, 6, atten_mask=compressed_atten_mask(3), sparse_mode=3),
        "3: Sq > Skv\n(rows 0, 1 see nothing)": visible(5, 3, atten_mask=compressed_atten_mask(3), sparse_mode=3),
        "4: band, bottom right\npre=1, next=1": visible(
            4, 6, atten_mask=compressed_atten_mask(4), sparse_mode=4, pre_tockens=1, next_tockens=1
        ),
        "5 (full mask), 6: prefix\nprefix=4": visible(
            5, 7, atten_mask=compressed_atten_mask(6), sparse_mode=6, prefix=[4]
        ),
        "3, packed (TND)\nSq 2, 0, 3  Skv 2, 1, 4": visible_packed(
            [2, 0, 3], [2, 1, 4], atten_mask=compressed_atten_mask(3), sparse_mode=3
        ),
        "7: the last is a band\nSq 3, 2  Skv 3, 6, next=-2": visible_packed(
            [3, 2], [3, 6], atten_mask=compressed_atten_mask(7), sparse_mode=7, next_tockens=-2
        ),
        "8: the first is a band\nSq 3, 4  Skv 4, 4, next=1": visible_packed(
            [3, 4], [4, 4], atten_mask=compressed_atten_mask(8), sparse_mode=8, next_tockens=1
        ),
    }


def draw(output: Path) -> None:
    figure, axes = plt.subplots(3, 4, figsize=(11, 9.2), layout="constrained")
    axes.flat[-1].remove()
    for axis, (title, seen) in zip(axes.flat, panels().items(), strict=False):
        axis.imshow(seen, cmap="Blues", vmin=0, vmax=1.4)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(seen.shape[1]))
        axis.set_yticks(range(seen.shape[0]))
        axis.set_xticks([x - 0.5 for x in range(1, seen.shape[1])], minor=True)
        axis.set_yticks([y - 0.5 for y in range(1, seen.shape[0])], minor=True)
        axis.grid(which="minor", color="white", linewidth=2)
        axis.tick_params(which="both", length=0, labelsize=8)
    figure.supxlabel("key j", fontsize=10)
    figure.supylabel("query row i", fontsize=10)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_OUTPUT)
