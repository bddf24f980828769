"""--split means to us what it means to megatron-core's dataset builder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)

from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.split import Split

shares = st.integers(0, 1000)


@given(train=st.integers(1, 1000), valid=shares, test=shares, count=st.integers(0, 5000))
def test_parts_are_disjoint_and_megatrons(train, valid, test, count):
    text = f"{train},{valid},{test}"
    parts = Split.parse(text).documents(count)
    assert 0 == parts.train[0] <= parts.train[1] <= count
    if valid:
        assert parts.train[1] == parts.valid[0] <= parts.valid[1] <= count
    else:
        assert parts.valid == (0, 0)
    # The arithmetic of BlendedMegatronDatasetBuilder._build_megatron_dataset_splits.
    matrix = convert_split_vector_to_split_matrix(parse_and_normalize_split(text))
    for bounds, part in zip(matrix, parts, strict=False):
        if bounds is not None:
            assert part == (round(bounds[0] * float(count)), round(bounds[1] * float(count)))


@pytest.mark.parametrize("text", ["", "a,b", "1,2,3,4", "0,1,0", "-1,1,0", "nan,1"])
def test_other_text_is_refused(text):
    with pytest.raises(Mistake, match="--split"):
        Split.parse(text)


def test_no_validation_part():
    assert Split.parse("100,0,0").valid is None
    assert Split.parse("1").valid is None
