"""From PackedSeqParams to the operator's lists: the leading 0, empty documents, padding, and what is refused."""

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from ascendspeed.integrations.megatron.masks import plan_attention
from ascendspeed.integrations.megatron.packed import Documents, documents_of


def params(queries, keys=None, padded=None, **fields) -> PackedSeqParams:
    def ends(numbers):
        return None if numbers is None else torch.tensor(numbers, dtype=torch.int32)

    queries_padded = keys_padded = ends(padded)
    return PackedSeqParams(
        **{
            "qkv_format": "thd",
            "cu_seqlens_q": ends(queries),
            "cu_seqlens_kv": ends(queries if keys is None else keys),
            "cu_seqlens_q_padded": queries_padded,
            "cu_seqlens_kv_padded": keys_padded,
            **fields,
        }
    )


def test_the_leading_zero_goes():
    assert documents_of(params([0, 3, 4, 9]), 9, 9) == Documents((3, 4, 9), (3, 4, 9))
    assert documents_of(params([0, 3, 9]), 9, 9).query_lengths == (3, 6)


def test_empty_documents_go():
    """Lists of a fixed size repeat their last number; ALiBi takes no empty document."""
    assert documents_of(params([0, 0, 3, 3, 9, 9]), 9, 9) == Documents((3, 9), (3, 9))


def test_a_document_without_queries_keeps_its_keys():
    assert documents_of(params([0, 3, 3], [0, 3, 8]), 3, 8) == Documents((3, 3), (3, 8))


def test_padding_between_documents_is_a_document():
    padded = documents_of(params([0, 3, 7], padded=[0, 4, 8]), 8, 8)
    assert padded == Documents((3, 4, 8), (3, 4, 8), (False, True, False))


def test_padding_needs_no_prefix_length():
    plan = plan_attention(
        "prefix",
        torch.tensor([2, 4]),
        batch_size=1,
        query_length=8,
        key_length=8,
        device=torch.device("cpu"),
        documents=documents_of(params([0, 3, 7], padded=[0, 4, 8]), 8, 8),
    )
    assert plan.prefix == (2, 0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PackedSeqParams(), "qkv_format=None is not 'thd'"),
        (params([0, 9], qkv_format="sbhd"), "qkv_format='sbhd' is not 'thd'"),
        (params(None), "cu_seqlens_q is None"),
        (params([9]), r"cu_seqlens_q has shape \[1\]; it must be \[documents \+ 1\]"),
        (params([3, 9]), "cu_seqlens_q begins with 3; it must begin with 0"),
        (params([0, 9, 5, 9]), "cu_seqlens_q falls from 9 to 5 at document 1"),
        (params([0, 5]), "cu_seqlens_q ends at 5, but query has 9 tokens"),
        (params([0, 9], [0, 4]), "cu_seqlens_kv ends at 4, but key has 9 tokens"),
        (params([0, 9], [0, 4, 9]), "1 documents in cu_seqlens_q, but 2 in cu_seqlens_kv"),
        (params([0, 3, 7], padded=[0, 9]), "cu_seqlens_q_padded has 1 documents, cu_seqlens_q has 2"),
        (params([0, 5, 9], padded=[0, 4, 9]), "cu_seqlens_q_padded has room for 4 tokens of document 0, which has 5"),
        (params([0, 3, 7], padded=[0, 4, 8]), "cu_seqlens_q_padded ends at 8, but query has 9 tokens"),
    ],
)
def test_a_list_that_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        documents_of(given, 9, 9)


def test_a_batch_split_among_context_parallel_ranks_is_refused():
    split = params([0, 9])
    split.local_cp_size = 2
    with pytest.raises(NotImplementedError, match="local_cp_size=2 is not supported yet"):
        documents_of(split, 9, 9)
