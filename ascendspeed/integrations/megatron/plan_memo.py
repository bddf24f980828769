"""Keeps the last plan of each kind of layer, so that a batch's plan is made once and not once in every layer.

A plan is handed out again only for lengths of the same values. They are compared on the host, by content: neither a
tensor's identity nor torch's count of writes to it says that nobody wrote (a collective, `.data` and numpy are not
counted). Plans of masks of the scores' size are not kept: a view costs nothing, comparing would cost more than making.
An empty memo gives the same plans, later.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from ascendspeed.integrations.megatron.masks import AttentionPlan

__all__ = ["PlanMemo"]


class PlanMemo:
    """Shared by the layers of a model, or of several; holds at most one plan for each layer kind, and no tensor of the
    batch alive."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, tuple[Hashable, list[Tensor | None], AttentionPlan]] = {}

    def plan(
        self,
        layer_kind: Hashable,
        sizes: Hashable,
        sources: tuple[Tensor | None, ...],
        make: Callable[[], AttentionPlan],
    ) -> AttentionPlan:
        """The kept plan, or what `make` returns.

        Args:
            layer_kind: what of a layer decides its plan; one plan is kept for each.
            sizes: the numbers that decide besides; equal ones give equal plans.
            sources: the tensors that decide; with any but lengths [count] among them the plan is made every time.
        """
        if any(tensor is not None and tensor.dim() != 1 for tensor in sources):
            return make()
        lengths = [None if tensor is None else tensor.cpu() for tensor in sources]
        kept = self._plans.get(layer_kind)
        if kept is not None and kept[0] == sizes and _equal(kept[1], lengths):
            return kept[2]
        with torch.inference_mode(False):  # an inference tensor could not be saved for a later backward
            plan = make()
        self._plans[layer_kind] = (sizes, [None if tensor is None else tensor.clone() for tensor in lengths], plan)
        return plan

    def __reduce__(self) -> tuple[type[PlanMemo], tuple[()]]:
        """A copy, or one that is read from a file, begins empty: a model's file has no masks in it."""
        return PlanMemo, ()


def _equal(kept: list[Tensor | None], given: list[Tensor | None]) -> bool:
    if len(kept) != len(given):
        return False
    for old, new in zip(kept, given, strict=True):
        if old is None or new is None:
            if old is not new:
                return False
        elif old.dtype != new.dtype or not torch.equal(old, new):
            return False
    return True
