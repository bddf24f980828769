"""What a GPT layer of two tensor-parallel ranks really tells CANN, for every row of the mask mapping."""

import json

import pytest
import torch

from ascendspeed.integrations.megatron.masks import MAPPING, MappingRow
from tests.support.ranks import run_ranks

pytestmark = pytest.mark.distributed

BATCH, HEADS, GROUPS, HEAD_SIZE, RANKS = 2, 4, 2, 8, 2
WINDOW = (5, 0)
# A length of its own for each row: the calls in the trace are told apart by it, and a tensor that grows with its square
# has it twice in its shape. A packed batch is one sample of two documents of that length together.
ROWS = {101 + index: row for index, row in enumerate(MAPPING)}
DOCUMENT = 40  # tokens of the first document


def _train_each() -> None:
    """On every rank: forward and backward of a model of one layer, for each row of the mapping."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer.transformer_config import TransformerConfig

    from ascendspeed import device
    from ascendspeed.integrations.megatron import get_gpt_layer_spec
    from tests.integrations.megatron.models import initialize

    initialize()
    here = device.current().current_device()
    for length, row in ROWS.items():
        config = TransformerConfig(
            num_layers=1,
            hidden_size=HEADS * HEAD_SIZE,
            num_attention_heads=HEADS,
            num_query_groups=GROUPS,
            attention_dropout=0.0,
            tensor_model_parallel_size=RANKS,
            window_size=WINDOW if row.window else None,
        )
        model = GPTModel(config, get_gpt_layer_spec(config, mask=row.kind), vocab_size=16, max_sequence_length=length)
        batch = 1 if row.packed else BATCH
        tokens = torch.zeros(batch, length, dtype=torch.int64, device=here)
        positions = torch.arange(length, device=here).expand(batch, -1)
        documents = torch.tensor([0, DOCUMENT, length], dtype=torch.int32)
        packed = PackedSeqParams("thd", cu_seqlens_q=documents, cu_seqlens_kv=documents) if row.packed else None
        mask = _attention_mask(row, length, here)
        model.to(here)(tokens, positions, mask, labels=tokens, packed_seq_params=packed).mean().backward()


def _attention_mask(row: MappingRow, length: int, device: torch.device) -> torch.Tensor | None:
    if row.given == "lengths":
        return torch.tensor(_prefix(row, length))
    if row.given == "mask":
        return torch.ones(BATCH, 1, length, length, dtype=torch.bool, device=device).triu(1)
    return None


def _prefix(row: MappingRow, length: int) -> list[int]:
    return [DOCUMENT // 3, length - DOCUMENT] if row.packed else [length // 3, length]


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> list[dict]:
    """The first phases of the attention operator that both ranks have called."""
    trace = tmp_path_factory.mktemp("trace") / "calls.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASCENDSPEED_HOSTCANN_TRACE", str(trace))
        run_ranks(RANKS, _train_each, device="npu")
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    return [line for line in lines if "FlashAttention" in line["function"] and "arguments" in line]


@pytest.mark.parametrize(
    ("length", "row"), ROWS.items(), ids=[f"{r.kind}-{r.given}-{r.window}-{r.packed}" for r in MAPPING]
)
def test_the_calls_of_a_layer(calls, length, row):
    mine = [call for call in calls if call["arguments"]["query"]["shape"][0] == length]
    backward = ["Grad" in call["function"] for call in mine]
    assert sorted(backward) == [False] * RANKS + [True] * RANKS
    for call in mine:
        assert call["status"] == 0, call["message"]
        a = call["arguments"]
        assert (a["input_layout"], a["head_num"]) == ("TND" if row.packed else "SBH", HEADS // RANKS)
        heads, groups = (
            [length, n // RANKS, HEAD_SIZE] if row.packed else [length, BATCH, n // RANKS * HEAD_SIZE]
            for n in (HEADS, GROUPS)
        )
        assert a["query"]["shape"] == heads
        assert a["key"]["shape"] == a["value"]["shape"] == groups
        assert a["sparse_mode"] == (row.sparse_mode or 0)
        assert a["prefix"] == (_prefix(row, length) if row.given == "lengths" else None)
        if row.window:
            assert (a["pre_tockens"], a["next_tockens"]) == WINDOW
        shape = {None: None, 1: [BATCH, 1, length, length], 6: [3072, 2048]}.get(row.sparse_mode, [2048, 2048])
        assert (a["atten_mask"] and a["atten_mask"]["shape"]) == shape
        squares = {name for name, tensor in a.items() if isinstance(tensor, dict) and tensor["shape"].count(length) > 1}
        assert squares == ({"atten_mask"} if row.sparse_mode == 1 else set()), "a tensor of the size of the scores"
