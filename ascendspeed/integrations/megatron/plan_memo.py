"""Keeps the last plan of each kind of layer, so that a batch's plan is made once and not once in every layer.

A plan is handed out again only for the very tensors it was made from, unchanged since. Nothing else depends on it: an
empty memo gives the same plans, later.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

from torch import Tensor

from ascendspeed.integrations.megatron.masks import AttentionPlan

__all__ = ["PlanMemo"]


class PlanMemo:
    """Shared by the layers of a model; holds at most one plan for each layer kind, and no tensor of the batch alive
    but what the plan itself consists of."""

    def __init__(self) -> None:
        self._plans: dict[Hashable, tuple[Hashable, list[tuple[weakref.ref[Tensor], int] | None], AttentionPlan]] = {}

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
            sources: the tensors that decide; compared by identity and by torch's count of writes to them.
        """
        kept = self._plans.get(layer_kind)
        if kept is not None and kept[0] == sizes and _unchanged(kept[1], sources):
            return kept[2]
        plan = make()
        if not any(tensor is not None and tensor.is_inference() for tensor in sources):  # their writes are not counted
            marks = [None if tensor is None else (weakref.ref(tensor), tensor._version) for tensor in sources]
            self._plans[layer_kind] = (sizes, marks, plan)
        return plan

    def __reduce__(self) -> tuple[type[PlanMemo], tuple[()]]:
        """A copy, or one that is read from a file, begins empty: weak references cannot be written."""
        return PlanMemo, ()


def _unchanged(marks: list[tuple[weakref.ref[Tensor], int] | None], sources: tuple[Tensor | None, ...]) -> bool:
    if len(marks) != len(sources):
        return False
    for mark, tensor in zip(marks, sources, strict=True):
        if mark is None or tensor is None:
            if mark is not tensor:
                return False
        elif mark[0]() is not tensor or tensor.is_inference() or tensor._version != mark[1]:
            return False
    return True
