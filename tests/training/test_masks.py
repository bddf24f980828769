"""What the loader reads of samples: document ends as Megatron's own dense masks have them, prefixes, and the loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids

from ascendspeed.training import flags
from ascendspeed.training.masks import SampleMasks, mask_kind, packed_seq_params, schedule_shape
from tests.training.settings import SMALL

EOD, SEP = 9, 8


def samples(*rows):
    """As Megatron's GPTDataset gives them, with positions counted from 0 in each document."""
    made = []
    for row in rows:
        tokens = torch.tensor(row)
        _, loss_mask, positions = _get_ltor_masks_and_position_ids(tokens, EOD, True, True, False, False)
        made.append({"tokens": tokens, "labels": tokens.roll(-1), "loss_mask": loss_mask, "position_ids": positions})
    return made


def megatrons_mask(row) -> torch.Tensor:
    """[S, S], True = left out: what Megatron's GPTDataset makes of --reset-attention-mask."""
    return _get_ltor_masks_and_position_ids(torch.tensor(row), EOD, False, True, False, True)[0][0]


def dense(cu_seqlens) -> torch.Tensor:
    """[T, T], True = left out: causal inside of each document."""
    document = torch.repeat_interleave(torch.arange(len(cu_seqlens) - 1), cu_seqlens.diff())
    places = torch.arange(len(document))
    return (document.view(-1, 1) != document) | (places > places.view(-1, 1))


rows = st.integers(1, 12).flatmap(
    lambda length: st.lists(
        st.lists(st.sampled_from([1, 2, SEP, EOD]), min_size=length, max_size=length), min_size=1, max_size=3
    )
)


@given(rows)
def test_documents_end_where_megatron_ends_them(texts):
    batch = SampleMasks(True, EOD, None)(samples(*texts))
    expected = torch.block_diag(*(~megatrons_mask(row) for row in texts)).bool()
    assert torch.equal(~dense(batch["cu_seqlens"]), expected)


def test_one_row_holds_the_micro_batch():
    batch = SampleMasks(True, EOD, None)(samples([1, EOD, 2, 3], [4, 5, 6, EOD]))
    assert batch["cu_seqlens"].tolist() == [0, 2, 4, 8]
    assert batch["cu_seqlens"].dtype == torch.int32
    assert batch["tokens"].tolist() == [[1, EOD, 2, 3, 4, 5, 6, EOD]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 0, 1, 2, 3]]
    assert all(batch[name].shape == (1, 8) for name in ("labels", "loss_mask"))
    assert "prefix" not in batch


def test_packed_params_are_those_megatron_takes():
    params = packed_seq_params(torch.tensor([0, 2, 4, 8], dtype=torch.int32))
    assert (params.qkv_format, params.max_seqlen_q, params.max_seqlen_kv) == ("thd", 4, 4)
    assert params.cu_seqlens_q is params.cu_seqlens_kv


def test_without_flags_a_batch_is_as_it_was():
    batch = SampleMasks(False, EOD, None)(samples([1, EOD, SEP, 3], [4, 5, 6, EOD]))
    assert set(batch) == {"tokens", "labels", "loss_mask", "position_ids"}
    assert batch["tokens"].shape == (2, 4)
    assert bool((batch["loss_mask"] == 1).all())


def test_a_prefix_ends_with_the_first_separator_of_its_sample():
    batch = SampleMasks(False, EOD, SEP)(samples([1, 2, SEP, 3, SEP, 4], [1, 2, 3, 4, 5, 6], [SEP, 1, 2, 3, 4, 5]))
    assert batch["prefix"].tolist() == [3, 0, 1]
    assert batch["prefix"].dtype == torch.int64
    # Tokens 0 and 1 see what they would predict; token 2, the separator, predicts the first target.
    assert batch["loss_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6, [1] * 6]


def test_packed_prefixes_are_those_of_the_documents():
    batch = SampleMasks(True, EOD, SEP)(samples([5, EOD, 1, SEP, 2, EOD], [1, 2, SEP, EOD, SEP, 3]))
    assert batch["cu_seqlens"].tolist() == [0, 2, 6, 10, 12]
    assert batch["prefix"].tolist() == [0, 2, 3, 1]
    assert batch["loss_mask"].tolist() == [[1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1]]


@given(rows, st.booleans())
def test_no_token_is_asked_for_what_it_sees(texts, packed):
    """The loss is on exactly the tokens whose label is no key of theirs (the last label is outside of the sample)."""
    batch = SampleMasks(packed, EOD, SEP)(samples(*texts))
    length = len(texts[0])
    whole = torch.arange(0, length * len(texts) + 1, length)
    ends = batch.get("cu_seqlens", whole)
    places = torch.arange(int(ends[-1]))
    start = torch.repeat_interleave(ends[:-1], ends.diff())
    prefix = torch.repeat_interleave(batch["prefix"], ends.diff())
    sees_the_next = (places + 1 >= start) & (places + 1 < start + prefix)
    assert torch.equal(batch["loss_mask"].flatten() == 0, sees_the_next)


@pytest.mark.parametrize(
    ("more", "kind", "shape"),
    [
        ("", "causal", (16, 2)),
        ("--reset-attention-mask", "causal", (32, 1)),
        ("--prefix-lm --prefix-end-token 5", "prefix", (16, 2)),
        ("--prefix-lm --prefix-end-token 5 --reset-attention-mask", "prefix", (32, 1)),
    ],
)
def test_what_the_model_and_the_schedule_are_told(more, kind, shape):
    run = flags.parse([*SMALL, *more.split()], world_size=1)
    assert (mask_kind(run), schedule_shape(run)) == (kind, shape)
