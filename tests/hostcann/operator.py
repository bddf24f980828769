"""The operator as C programs of one version compute it, for the checks that ascendspeed.ops is tested with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ascendspeed.ops.flash_attention import FlashAttentionScoreOutput
from tests.hostcann.calls import Programs
from tests.support.cases import Case, arrange
from tests.support.packed import PackedCase
from tests.support.packed_check import Gradients

TENSORS = ("pse", "drop_mask", "atten_mask", "sink", "query_rope", "key_rope")
SOC_950 = {"ASCENDSPEED_HOSTCANN_SOC": "Ascend950PR_9599"}


def unwritten(sizes: Any, dtype: torch.dtype, memory: str = "contiguous") -> Tensor:
    """Memory for an output, NaN everywhere, with strides as `memory` says: no two elements may share theirs."""
    return arrange(torch.full(tuple(sizes), torch.nan, dtype=dtype), "sliced" if memory == "expanded" else memory)


class Operator:
    """Forward and backward of one version: `forward` and `backward` name its programs."""

    def __init__(self, programs: Programs, folder: Path, forward: str, backward: str) -> None:
        self._programs, self._folder = programs, folder
        self._forward, self._backward = forward, backward
        self._newest = forward == "flash_attention_score_v4"

    def _call(self, program: str, inputs: dict[str, Any], outputs: dict[str, Any], attributes: dict[str, Any]) -> Any:
        variables = SOC_950 if self._newest else {}
        return self._programs.call(program, self._folder / program, inputs, outputs, attributes, **variables)

    def _compute(
        self, case: Case | PackedCase, layout: str, stats_shape: tuple[int, ...]
    ) -> tuple[FlashAttentionScoreOutput, dict[str, Tensor]]:
        query, key, value, dy = case.tensors()
        attributes = case.attributes() | {"head_num": case.heads, "input_layout": layout}
        tensors = {name: attributes.pop(name, None) for name in TENSORS}
        if not self._newest:  # only that version generates a mask
            tensors["drop_mask"] = case.drop_mask()
        if attributes.get("softmax_layout"):
            attributes["softmax_layout"] = "same_as_input"  # as the C interface spells it
        inputs = {"query": query, "key": key, "value": value, **tensors}

        stats = {name: unwritten(stats_shape, torch.float32, case.memory) for name in ("softmax_max", "softmax_sum")}
        outputs = {"attention_out": unwritten(dy.shape, case.dtype, case.memory), **stats}
        outputs = self._call(self._forward, inputs, outputs, attributes)

        inputs |= {"dy": dy, "attention_in": outputs["attention_out"]}
        inputs |= {name: outputs[name] for name in ("softmax_max", "softmax_sum")}
        like = {"dq": query, "dk": key, "dv": value, "dsink": tensors["sink"]}
        like |= {"dq_rope": tensors["query_rope"], "dk_rope": tensors["key_rope"], "dpse": tensors["pse"]}
        wanted = {
            name: unwritten(tensor.shape, tensor.dtype, case.memory)
            for name, tensor in like.items()
            if tensor is not None
        }
        gradients = self._call(self._backward, inputs, wanted, attributes)
        stats = {name: outputs[name].contiguous() for name in ("softmax_max", "softmax_sum")}
        output = FlashAttentionScoreOutput(
            outputs["attention_out"].contiguous(), **stats, softmax_out=torch.empty(0, dtype=case.dtype)
        )
        if case.pse in ("N", "BN"):
            dslopes = gradients.pop("dpse")
            assert (dslopes == 0).all(), "slopes have no gradient, and their memory must be written all the same"
        return output, gradients

    def dense(self, case: Case) -> tuple[FlashAttentionScoreOutput, tuple[Tensor, ...], Tensor]:
        """As tests.ops.test_flash_attention_score.run."""
        output, gradients = self._compute(case, case.layout, (case.batch, case.heads, case.q_len, 8))
        order = ("dq", "dk", "dv", "dpse", "dsink")
        return output, tuple(gradients[name] for name in order if name in gradients), case.tensors()[3]

    def packed(self, case: PackedCase) -> tuple[FlashAttentionScoreOutput, Gradients]:
        """As tests.support.packed_check.run_packed."""
        output, gradients = self._compute(case, "TND", (sum(case.q_lens) + case.q_tail, case.heads, 8))
        return output, Gradients(**(dict.fromkeys(Gradients._fields) | gradients))


MakeOperator = Callable[[str, str], Operator]
