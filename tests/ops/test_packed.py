"""Packed batches (TND) against the reference: every mode and attribute, and what lies between the elements."""

import pytest
import torch
from hypothesis import given

from ascendspeed.ops import reference
from tests.support.operator import flash_attention_score
from tests.support.packed import Element, PackedCase, cumulative
from tests.support.packed_cases import MODES, four_elements, packed_cases
from tests.support.packed_check import check_packed, run_packed


@given(packed_cases())
def test_is_within_the_derived_bound_of_the_reference(case):
    check_packed(case)


@pytest.mark.parametrize("softmax_layout", ["", "TND"])
@pytest.mark.parametrize("mode", [None, *MODES])
def test_every_mode(mode, softmax_layout):
    check_packed(four_elements(mode, softmax_layout=softmax_layout))


@pytest.mark.parametrize(
    ("lengths", "zeros", "expected"),
    [
        ((2, 2, 0, 2, 2), 0, [2, 4, 4, 6, 8]),  # the specification's examples
        ((2, 3, 4, 0, 0), 2, [2, 5, 9, 0, 0]),
        ((0, 3), 0, [0, 3]),
        ((3, 0, 0), 1, [3, 3, 0]),
    ],
)
def test_lengths_are_given_as_where_each_element_ends(lengths, zeros, expected):
    assert cumulative(lengths, zeros) == expected


def picture(drawing: str) -> torch.Tensor:
    """True where the drawing has `#`."""
    return torch.tensor([[mark == "#" for mark in line.split()] for line in drawing.strip().splitlines()])


# What each element of a batch sees, as the specification draws it: the band element of mode 7, Sq=2 Skv=6 next=-2, and
# of mode 8, Sq=3 Skv=4 next=1, beside others that read from the bottom right (7) or from the top left (8).
MODE_7 = (
    (2, 2),
    (3, 6),
    -2,
    [
        """
        # # .
        # # #
        """,
        """
        # # # . . .
        # # # # . .
        """,
    ],
)
MODE_8 = (
    (3, 4, 2),
    (4, 4, 3),
    1,
    [
        """
        # # # .
        # # # #
        # # # #
        """,
        """
        # . . .
        # # . .
        # # # .
        # # # #
        """,
        """
        # . .
        # # .
        """,
    ],
)
# Two cards share a batch: the long sequence of queries is split, its first part ends one card's batch (mode 7), its
# second part begins the other's (mode 8).
MODE_7_SPLIT = (
    (3, 2),
    (3, 6),
    -2,
    [
        """
        # . .
        # # .
        # # #
        """,
        """
        # # # . . .
        # # # # . .
        """,
    ],
)
MODE_8_SPLIT = (
    (3, 5, 4),
    (4, 5, 4),
    1,
    [
        """
        # # # .
        # # # #
        # # # #
        """,
        """
        # . . . .
        # # . . .
        # # # . .
        # # # # .
        # # # # #
        """,
        """
        # . . .
        # # . .
        # # # .
        # # # #
        """,
    ],
)


def visible(case: PackedCase, element: Element) -> torch.Tensor:
    """What the operator lets each row see: with equal scores and one-hot values, where its output is not 0."""
    query = torch.zeros(sum(case.q_lens), 1, max(case.kv_lens))
    key = torch.zeros(sum(case.kv_lens), 1, max(case.kv_lens))
    value = torch.cat([torch.eye(length, max(case.kv_lens)) for length in case.kv_lens]).unsqueeze(1)
    out = flash_attention_score(query, key, value, 1, "TND", **case.attributes()).attention_out
    return out[element.rows, 0, : element.kv_len] > 0


@pytest.mark.parametrize(
    ("mode", "example", "pre"),
    [(7, MODE_7, 6), (8, MODE_8, 4), (7, MODE_7_SPLIT, 6), (8, MODE_8_SPLIT, 4)],
    ids=["7", "8", "7-split", "8-split"],
)
def test_worked_examples(mode, example, pre):
    q_lens, kv_lens, following, drawings = example
    case = PackedCase(q_lens, kv_lens, masked=True, sparse_mode=mode, pre_tockens=pre, next_tockens=following, qk_dim=8)
    for element, drawing in zip(case.elements(), drawings, strict=True):
        assert torch.equal(visible(case, element), picture(drawing)), f"operator, element {element.index}"
        assert torch.equal(~case.excluded(element)[0, 0], picture(drawing)), f"reference, element {element.index}"


def test_empty_elements_do_not_take_the_band():
    """Mode 7: the last element with queries has it; mode 8: the first."""
    band = picture("# # # . . .\n# # # # . .")
    for mode, lens in ((7, ((2, 0), (6, 3))), (8, ((0, 2), (3, 6)))):
        case = PackedCase(*lens, masked=True, sparse_mode=mode, next_tockens=-2, qk_dim=8)
        with_queries = next(element for element in case.elements() if element.q_len)
        assert torch.equal(visible(case, with_queries), band)


@pytest.mark.parametrize("mode", [4, 7, 8])
def test_one_element_is_configured_like_mode_4(mode):
    results = [
        run_packed(PackedCase((90,), (130,), masked=True, sparse_mode=m, pre_tockens=50, next_tockens=3))
        for m in (4, mode)
    ]
    for one, other in zip(*([*output[:3], *gradients[:3]] for output, gradients in results), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("pse_type", [0, 1])
@pytest.mark.parametrize("shared", [False, True])
def test_1024_rows_of_pse_stand_for_all_rows_of_each_element(shared, pse_type):
    """The form with 1024 rows is [1 or B, N, 1024, longest Skv]; one for all elements means the same last rows."""
    lengths = (1100, 1100) if shared else (1030, 1300)
    case = PackedCase(
        lengths, lengths, heads=2, kv_heads=1, masked=True, sparse_mode=3, pse="1CS" if shared else "BCS",
        pse_type=pse_type, dtype=torch.bfloat16, scale=0.3,
    )  # fmt: skip
    check_packed(case)


@pytest.mark.parametrize("sparse_mode", [None, 0, 3])
@pytest.mark.parametrize("softmax_layout", ["", "TND"])
def test_rows_after_the_last_element_are_neither_read_nor_left_unwritten(sparse_mode, softmax_layout):
    """Their inputs and dy are NaN (`PackedCase.tensors`); outputs and gradients there are 0, the others finite."""
    case = PackedCase(
        q_lens=(80, 3, 0, 0), kv_lens=(100, 3, 0, 0), q_tail=75, kv_tail=97, q_zeros=2, kv_zeros=1, heads=2,
        kv_heads=1, masked=sparse_mode is not None, sparse_mode=sparse_mode or 0, mask_density=0.1,
        softmax_layout=softmax_layout, dtype=torch.float16, sink=True, dropout="seed", keep_prob=0.8,
    )  # fmt: skip
    check_packed(case)
    output, gradients = run_packed(case)
    for tensor in (*output, *gradients[:3], gradients.dsink):
        assert tensor.isfinite().all()
    assert (gradients.dk[103:] == 0).all()
    assert (gradients.dq[83:] == 0).all()


@pytest.mark.parametrize("lens", [((0, 5), (3, 7)), ((5, 5), (0, 7)), ((5, 0), (7, 0)), ((0, 0), (0, 0)), ((4,), (0,))])
@pytest.mark.parametrize("mode", [None, 0, 1, 3, 6])
def test_elements_without_queries_or_keys_are_zero(lens, mode):
    prefix = (2,) * len(lens[0]) if mode == 6 else None
    check_packed(
        PackedCase(
            *lens, masked=mode is not None, sparse_mode=mode or 0, prefix=prefix, dtype=torch.bfloat16, sink=True
        )
    )


def test_bits_of_a_dropout_mask_begin_where_the_elements_before_left_off():
    """Keeping one probability alone leaves one row of one head, in the element its number falls into."""
    case = PackedCase((3, 4), (5, 7), heads=2, v_dim=1)
    sizes = [(1, 2, element.q_len, element.kv_len) for element in case.elements()]
    query, key, _, _ = case.tensors()
    value = torch.ones(12, 1, 1)
    number = 2 * 3 * 5 + (1 * 4 + 2) * 7 + 6  # element 1, head 1, row 2, key 6
    bits = torch.zeros(-(-case.heads * case.area // 8), dtype=torch.uint8)
    bits[number // 8] = 1 << number % 8
    lengths = {name: list_ for name, list_ in case.attributes().items() if name.startswith("actual_seq")}
    out = flash_attention_score(query, key, value, 2, "TND", drop_mask=bits, keep_prob=0.5, **lengths).attention_out
    assert out.nonzero().tolist() == [[3 + 2, 1, 0]]
    first = reference.kept(bits, *sizes[0])
    second = reference.kept(bits, *sizes[1], first=first.numel())
    assert not first.any()
    assert second.nonzero().tolist() == [[0, 1, 2, 6]]
