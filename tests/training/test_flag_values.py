"""Values of more than one number, as Megatron-LM's scripts write them."""

from argparse import ArgumentTypeError

import pytest

from ascendspeed.training.flag_values import layer_pattern, pair_of_keys


@pytest.mark.parametrize("text", ["127,0", "(127,0)", " (127, 0) "])
def test_a_window(text):
    assert pair_of_keys(text) == (127, 0)


@pytest.mark.parametrize("text", ["", "127", "1,2,3", "a,0", "1.5,0", "-2,0"])
def test_what_is_no_window(text):
    with pytest.raises(ArgumentTypeError, match=r"is not LEFT,RIGHT|or -1 for no bound"):
        pair_of_keys(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("[1,1,0]", (1, 1, 0)),
        ("[1,1,0]*2", (1, 1, 0, 1, 1, 0)),
        ("2*[1,0]", (1, 0, 1, 0)),
        ("([1]*3+[0]*1)*2", (1, 1, 1, 0, 1, 1, 1, 0)),
    ],
)
def test_a_pattern_of_layers(text, value):
    assert layer_pattern(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "[]",
        "[2]",
        "[1,[0]]",
        "1+1",
        "[1]*[0]",
        "[1]*-1",
        "True",
        "x",
        "exit()",
        "[1]*10**9",
        "[1",
        "'a'",
    ],
)
def test_what_is_no_pattern(text):
    with pytest.raises(ArgumentTypeError, match="is neither a number of layers nor a list of 0 and 1"):
        layer_pattern(text)
