"""Every row of the mask mapping: its plan, what the operator computes with it, what Megatron's own module does.

The truth is `excluded_by_megatron`, an element-by-element statement of Megatron's words; where megatron-core's
DotProductAttention has the mask too, it is asked as well.
"""

import dataclasses

import pytest
import torch

from ascendspeed.integrations.megatron.alibi import alibi_slopes
from ascendspeed.integrations.megatron.contract_cases import (
    alibi_by_paper,
    excluded_by_megatron,
    excluded_in_documents,
    packed_params,
)
from ascendspeed.integrations.megatron.masks import MAPPING, MASK_KINDS, MappingRow, check_window, plan_attention
from ascendspeed.integrations.megatron.packed import documents_of
from ascendspeed.ops import NO_LIMIT, flash_attention_score, reference
from tests.integrations.megatron.models import initialize
from tests.support.device import DEVICE
from tests.support.ranks import run_ranks

BATCH, HEADS, GROUPS, SIZE = 2, 4, 2, 8
WINDOWS = {False: [None], True: [(0, 0), (3, 0), (200, 0), (-1, 0), (3, 2), (0, 5), (-1, -1), (3, -1)]}
SHAPES = [(12, 12), (1, 1), (7, 19), (19, 7), (130, 130)]
# (queries, keys) of the documents of a packed batch; a row with more queries than keys would see no key
DOCUMENTS = [((12, 12),), ((5, 5), (1, 1), (130, 130), (7, 7)), ((3, 3), (7, 19), (1, 4))]


def row_id(row: MappingRow) -> str:
    return f"{row.kind}-{row.given}{'-window' if row.window else ''}{'-packed' if row.packed else ''}"


def sample_inputs(seed: int, query_length: int, key_length: int, batch: int = BATCH) -> list[torch.Tensor]:
    """Query, key and value as Megatron's [s, b, n, d]."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((query_length, HEADS), (key_length, GROUPS), (key_length, GROUPS))
    return [torch.randn(length, batch, n, SIZE, generator=generator).to(DEVICE) for length, n in shapes]


def sample_mask(row: MappingRow, query_length: int, key_length: int) -> torch.Tensor | None:
    generator = torch.Generator().manual_seed(query_length * 1000 + key_length)
    if row.given == "nothing":
        return None
    if row.given == "lengths":
        least = max(0, key_length - query_length)
        return torch.tensor([least, (least + key_length + 1) // 2])
    return (torch.rand(BATCH, 1, query_length, key_length, generator=generator) < 0.5).to(DEVICE)


def windows(row: MappingRow):
    return [w for w in WINDOWS[row.window] if w is None or w[1] == 0 or row.kind == "no_mask"]


def cases(row: MappingRow):
    for query_length, key_length in SHAPES:
        if "Sq == Skv" in row.keeps and query_length != key_length:
            continue
        for window in windows(row):
            yield query_length, key_length, window


def packed_cases(row: MappingRow):
    for documents in DOCUMENTS:
        if "Sq == Skv" in row.keeps and any(queries != keys for queries, keys in documents):
            continue
        for window in windows(row):
            yield documents, window


def operator(inputs, arguments, heads=HEADS) -> torch.Tensor:
    """What the operator computes under a plan, [b, n, s, d] on the CPU."""
    packed = arguments.layout == "TND"
    got = flash_attention_score(
        *(t.squeeze(1) if packed else t.flatten(2) for t in inputs),
        heads,
        arguments.layout,
        scale=0.5,
        atten_mask=arguments.atten_mask,
        prefix=arguments.prefix,
        sparse_mode=arguments.sparse_mode,
        pre_tockens=arguments.pre_tockens,
        next_tockens=arguments.next_tockens,
        inner_precise=arguments.inner_precise,
        actual_seq_qlen=arguments.actual_seq_qlen,
        actual_seq_kvlen=arguments.actual_seq_kvlen,
        pse=arguments.pse,
        pse_type=arguments.pse_type,
    ).attention_out
    got = got.unsqueeze(1) if packed else got.unflatten(2, (heads, SIZE))
    return got.permute(1, 2, 0, 3).cpu()


def error_of(inputs, arguments, out, shift=None) -> float:
    """The largest error against the dense float64 reference, in units of the values' size."""
    query, key, value = (t.permute(1, 2, 0, 3).cpu() for t in inputs)
    sizes = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    expected = reference.attention(
        query, key, value, scale=0.5, mask=out.expand(sizes), shift=shift, shift_in_scale=False
    ).attention_out
    return float((operator(inputs, arguments) - expected).abs().max() / value.abs().max())


def plan(row_or_kind, attention_mask, query_length, key_length, window=None, batch_size=BATCH, **more):
    return plan_attention(
        getattr(row_or_kind, "kind", row_or_kind),
        attention_mask,
        batch_size=batch_size,
        query_length=query_length,
        key_length=key_length,
        device=torch.device(DEVICE),
        window_size=window,
        **more,
    )


def packed_plan(kind, attention_mask, documents, window=None, **more):
    queries, keys = (sum(lengths) for lengths in zip(*documents, strict=True))
    where = documents_of(packed_params(documents), queries, keys)
    return plan(kind, attention_mask, queries, keys, window, 1, documents=where, **more)


def test_every_mask_type_of_megatron_is_mapped():
    from megatron.core.transformer.enums import AttnMaskType

    assert set(MASK_KINDS) == {kind.name for kind in AttnMaskType} | {"prefix"}
    keys = [(row.kind, row.given, row.window, row.packed) for row in MAPPING]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("row", [row for row in MAPPING if not row.packed], ids=row_id)
def test_the_operator_computes_what_megatron_means(row):
    """Within 1e-5 of the values' size in float32; the error of a wrong key is of the values' size."""
    for query_length, key_length, window in cases(row):
        mask = sample_mask(row, query_length, key_length)
        arguments = plan(row, mask, query_length, key_length, window)
        assert arguments.sparse_mode == (row.sparse_mode or 0)
        assert (arguments.atten_mask is None) == (row.sparse_mode is None)
        out = excluded_by_megatron(row.kind, mask, window, query_length, key_length)
        error = error_of(sample_inputs(3, query_length, key_length), arguments, out)
        assert error <= 1e-5, (query_length, key_length, window)


@pytest.mark.parametrize("row", [row for row in MAPPING if row.packed], ids=row_id)
def test_no_document_of_a_packed_batch_sees_another(row):
    """As above, and every document has the row's rule for itself."""
    for documents, window in packed_cases(row):
        lengths = None
        if row.given == "lengths":
            lengths = torch.tensor(
                [max(keys - queries, keys * number // 3) for number, (queries, keys) in enumerate(documents)]
            )
            lengths = lengths.minimum(torch.tensor([keys for _, keys in documents]))
        arguments = packed_plan(row.kind, lengths, documents, window)
        assert (arguments.layout, arguments.sparse_mode) == ("TND", row.sparse_mode or 0)
        queries, keys = (sum(each) for each in zip(*documents, strict=True))
        error = error_of(
            sample_inputs(5, queries, keys, 1), arguments, excluded_in_documents(row.kind, lengths, window, documents)
        )
        assert error <= 1e-5, (documents, window)


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8, 12, 20])
def test_alibi_slopes_are_those_of_the_paper(heads):
    assert alibi_slopes(heads) == pytest.approx(alibi_by_paper(heads), rel=1e-15)


def test_alibi_slopes_of_eight_heads_halve():
    assert alibi_slopes(8) == tuple(2.0**-power for power in range(1, 9))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "window"), [("causal", None), ("causal", (3, 0)), ("no_mask", None), ("prefix", None)]
)
def test_alibi_is_added_to_the_scaled_scores(kind, window, packed):
    """-slope * |i - j| whatever the scale, and in a packed batch by the positions in each document."""
    documents = ((5, 5), (1, 1), (18, 18)) if packed else ((24, 24),)
    slopes = alibi_slopes(2 * HEADS)[HEADS:]  # of the second of two ranks
    batch = 1 if packed else BATCH
    lengths = None
    if kind == "prefix":
        lengths = torch.tensor([2, 0, 7] if packed else [5, 24])
    if packed:
        arguments = packed_plan(kind, lengths, documents, window, slopes=slopes)
        out = excluded_in_documents(kind, lengths, window, documents)
    else:
        arguments = plan(kind, lengths, 24, 24, window, slopes=slopes)
        out = excluded_by_megatron(kind, lengths, window, 24, 24)
    i = torch.cat([torch.arange(length) for length, _ in documents])
    shift = -torch.tensor(slopes).double().view(1, -1, 1, 1) * (i - i.view(-1, 1)).abs()
    inputs = sample_inputs(6, 24, 24, batch)
    assert error_of(inputs, arguments, out, shift) <= 1e-5
    assert error_of(inputs, arguments, out, 0.5 * shift) > 1e-3, "a scaled shift would go unnoticed"


# What megatron-core's DotProductAttention has too. It knows neither a prefix nor causal_bottom_right, and for
# padding_causal it applies the mask it is given and no triangle.
MEGATRON_HAS = [row for row in MAPPING if row.kind in {"causal", "padding", "arbitrary", "no_mask"} and not row.packed]


def _both(rows: list[MappingRow]) -> list[float]:
    """The largest difference between Megatron's module and ours over each row's cases, where a query sees a key."""
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.enums import AttnMaskType
    from megatron.core.transformer.transformer_config import TransformerConfig

    from ascendspeed.integrations.megatron import AscendDotProductAttention

    initialize()
    worst = []
    for row in rows:
        differences = [0.0]
        for query_length, key_length, window in cases(row):
            if window is not None and -1 in window:
                continue  # Megatron's config calls -1 "no bound"; its DotProductAttention takes it for a number
            config = TransformerConfig(
                num_layers=1,
                hidden_size=HEADS * SIZE,
                num_attention_heads=HEADS,
                num_query_groups=GROUPS,
                attention_dropout=0.0,
                window_size=window,
                masked_softmax_fusion=False,
                apply_query_key_layer_scaling=True,
                attention_softmax_in_fp32=True,
            )
            query, key, value = sample_inputs(4, query_length, key_length)
            mask = sample_mask(row, query_length, key_length)
            outputs = [
                module(config, 3, AttnMaskType[row.kind], "self")(query, key, value, mask)
                for module in (DotProductAttention, AscendDotProductAttention)
            ]
            out = excluded_by_megatron(row.kind, mask, window, query_length, key_length)
            sees_a_key = ~out.all(dim=-1).expand(BATCH, 1, query_length).permute(2, 0, 1)
            differences.append(((outputs[0] - outputs[1]).cpu() * sees_a_key).abs().max().item())
        worst.append(max(differences))
    return worst


@pytest.mark.distributed
def test_megatrons_own_attention_means_the_same():
    """For a query that sees no key Megatron averages all values and the operator returns 0; see docs/megatron.md."""
    for row, difference in zip(MEGATRON_HAS, run_ranks(1, _both, MEGATRON_HAS)[0], strict=True):
        assert difference <= 1e-5, row_id(row)


def test_a_window_of_w_keys_is_w_minus_1_before_the_query():
    arguments = plan("causal", None, 8, 8, (4 - 1, 0))
    assert (arguments.sparse_mode, arguments.pre_tockens, arguments.next_tockens) == (4, 3, 0)
    assert (~excluded_by_megatron("causal", None, (3, 0), 8, 8)).sum(-1).flatten().tolist() == [1, 2, 3, 4, 4, 4, 4, 4]


def test_no_bound_is_minus_1():
    assert plan("no_mask", None, 8, 8, (-1, 2)).pre_tockens == NO_LIMIT


def test_a_plan_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan("causal", None, 4, 4).sparse_mode = 0


def test_padding_of_keys_is_broadcast_to_every_query():
    keys = torch.tensor([[False, False, True], [False, True, True]], device=DEVICE).view(2, 1, 1, 3)
    arguments = plan("padding_causal", keys, 3, 3)
    assert arguments.atten_mask.shape == (2, 1, 3, 3)
    assert torch.equal(arguments.atten_mask, keys | torch.ones(3, 3, dtype=torch.bool, device=DEVICE).triu(1))


BOOL = torch.zeros(2, 1, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diagonal", None, 4, 4), "mask 'diagonal' is not one of no_mask, causal"),
        (("causal", None, 4, 6), "Sq=4 and Skv=6"),
        (("padding_causal", BOOL, 4, 6), "Sq=4 and Skv=6"),
        (("arbitrary", None, 4, 4), "mask 'arbitrary' takes as attention_mask mask; it was given nothing"),
        (("prefix", None, 4, 4), "mask 'prefix' takes as attention_mask lengths or .*; it was given nothing"),
        (
            ("no_mask", BOOL, 4, 4),
            "mask 'no_mask' takes as attention_mask nothing or nothing and a window_size or nothing and packed_",
        ),
        (("causal_bottom_right", BOOL, 4, 4), "it was given mask"),
        (("causal", BOOL, 4, 4, (2, 0)), r"it was given mask and window_size=\(2, 0\); .*--no-create-att"),
        (("prefix", BOOL, 4, 4), "mask 'prefix' takes as attention_mask lengths or .*; it was given mask"),
        (("padding", BOOL.float(), 4, 4), "dtype torch.float32; mask 'padding' takes a bool mask, True = left out"),
        (("causal", torch.tensor([1, 2]), 4, 4), "dtype torch.int64; mask 'causal' takes a bool mask"),
        (("prefix", torch.tensor([1, 2]).int(), 4, 4), "dtype torch.int32; mask 'prefix' takes int64 prefix lengths"),
        (
            ("arbitrary", BOOL[:, 0], 4, 4),
            r"shape \[2, 4, 4\]; it must be \[B or 1, 1, Sq or 1, Skv\] of \[2, 1, 4, 4\]",
        ),
        (("arbitrary", BOOL.expand(2, 3, 4, 4), 4, 4), r"shape \[2, 3, 4, 4\]"),
        (("arbitrary", BOOL[..., :1], 4, 4), "last size must be Skv=4"),
        (("prefix", torch.tensor([1, 2, 3]), 4, 4), r"shape \[3\]; one per sample is \[2\]"),
        (("prefix", torch.tensor([1, 5]), 4, 4), r"prefix length 5 of sample 1 is outside 0\.\.4"),
        (("prefix", torch.tensor([-1, 4]), 4, 4), r"prefix length -1 of sample 0 is outside 0\.\.4"),
        (("prefix", torch.tensor([1, 4]), 4, 6), r"prefix length 1 of sample 0 is outside 2\.\.6"),
        (("causal", None, 4, 4, (2, 1)), r"window_size=\(2, 1\) looks 1 keys ahead"),
        (("causal", None, 4, 4, (2, -1)), r"window_size=\(2, -1\) looks"),
        (("no_mask", None, 4, 4, (-2, 0)), r"window_size=\(-2, 0\): \(left, right\), each a number of keys"),
    ],
)
def test_what_the_table_does_not_have_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan(*arguments)


TWO = ((4, 4), (3, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("arbitrary", BOOL, TWO), "mask 'arbitrary' takes as attention_mask mask; .* mask and packed_seq_params"),
        (("causal", BOOL, TWO), "it was given mask and packed_seq_params"),
        (("causal", None, ((4, 4), (2, 3))), "mask 'causal' needs .* Sq=2 and Skv=3 in document 1"),
        (("prefix", torch.tensor([1]), TWO), r"shape \[1\]; one per document is \[2\]"),
        (("prefix", torch.tensor([1, 4]), TWO), r"prefix length 4 of document 1 is outside 0\.\.3"),
    ],
)
def test_what_the_table_does_not_have_packed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        packed_plan(*arguments)


def test_alibi_needs_as_many_queries_as_keys():
    with pytest.raises(ValueError, match="mask 'no_mask' with ALiBi needs as many queries as keys, but Sq=3 and Skv=4"):
        plan("no_mask", None, 3, 4, slopes=(0.5,) * HEADS)


@pytest.mark.parametrize(
    ("window", "kind", "message"),
    [
        ((1, 0), "prefix", r"window_size=\(1, 0\): mask 'prefix' has no window; no_mask, causal, .* have"),
        ((1, 0), "arbitrary", "mask 'arbitrary' has no window"),
        ((1, 2), "padding_causal", "looks 2 keys ahead, but mask 'padding_causal' sees none"),
        ((1,), "causal", r"window_size=\(1,\): \(left, right\)"),
    ],
)
def test_a_window_that_a_mask_cannot_have_is_refused(window, kind, message):
    with pytest.raises(ValueError, match=message):
        check_window(window, kind)
