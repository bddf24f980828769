"""Which documents are for training and which for validation: --split, by Megatron's own arithmetic."""

from dataclasses import dataclass
from typing import NamedTuple

from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)

from ascendspeed.training.mistakes import Mistake

__all__ = ["Parts", "Split"]

Bounds = tuple[float, float] | None


class Parts(NamedTuple):
    """First and one past the last document of each part; equal where the part is empty."""

    train: tuple[int, int]
    valid: tuple[int, int]


@dataclass(frozen=True)
class Split:
    """Shares of the documents, as the bounds of each part between 0 and 1; None where a part has no share."""

    text: str
    train: Bounds
    valid: Bounds

    @classmethod
    def parse(cls, text: str) -> "Split":
        """The split that --split names: up to three non-negative numbers, such as 969,30,1."""
        try:
            shares = [float(share) for share in text.split(",")]
        except ValueError:
            raise Mistake(f"--split {text}: not numbers with commas between them") from None
        if len(shares) > 3 or min(shares) < 0 or not 0 < shares[0] < float("inf"):
            raise Mistake(f"--split {text}: up to three shares, none negative and the first, for training, not 0")
        train, valid, _ = convert_split_vector_to_split_matrix(parse_and_normalize_split(text))
        return cls(text, train, valid)

    def documents(self, count: int) -> Parts:
        """The parts of `count` documents, rounded as megatron.core's dataset builder rounds them."""
        return Parts(*((round(b[0] * count), round(b[1] * count)) if b else (0, 0) for b in (self.train, self.valid)))
