"""Whatever is wrong with one of the two files is one sentence that names it."""

import numpy
import pytest
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.pair import token_dtype


@pytest.fixture(params=[numpy.uint16, numpy.int32])
def pair(tmp_path, request):
    """A pair of three documents, 9 tokens, as megatron-core writes it."""
    builder = IndexedDatasetBuilder(str(tmp_path / "a.bin"), dtype=request.param)
    for length in (2, 3, 4):
        builder.add_document(torch.arange(length), [length])
    builder.finalize(str(tmp_path / "a.idx"))
    return tmp_path / "a", numpy.dtype(request.param)


def test_what_megatron_writes_is_a_pair(pair):
    prefix, dtype = pair
    assert token_dtype(str(prefix)) == dtype


def changed(content: bytes, at: int, by: bytes) -> bytes:
    return content[:at] + by + content[at + len(by) :]


@pytest.mark.parametrize(
    ("suffix", "change", "why"),
    [
        (".idx", lambda c: b"", "has 0 bytes, less than a header"),
        (".idx", lambda c: b"not an index " * 10, "does not start as an index of version 1"),
        (".idx", lambda c: changed(c, 9, b"\x02"), "does not start as an index of version 1"),
        (".idx", lambda c: changed(c, 17, b"\x63"), "names the unknown dtype 99"),
        (".idx", lambda c: c[:-1], "bytes, its header asks for"),
        (".idx", lambda c: changed(c, 18, b"\x04"), "bytes, its header asks for"),
        (".idx", lambda c: changed(c, 34, b"\x7f"), "points outside the"),
        (".idx", lambda c: changed(c, 37, b"\xff"), "points outside the"),
        (".idx", lambda c: changed(c, len(c) - 8, b"\x07"), "documents that are not made of its 3 sequences"),
        (".bin", lambda c: c[: len(c) // 2 // 4 * 4], "points outside the"),
        (".bin", lambda c: c + b"x", "tokens do not fill"),
    ],
)
def test_what_is_not_a_pair_is_refused(pair, suffix, change, why):
    prefix, _ = pair
    file = prefix.with_suffix(suffix)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(Mistake) as caught:
        token_dtype(str(prefix))
    assert str(caught.value).startswith(f"--data-path {prefix} is not a Megatron .bin/.idx pair: ")
    assert why in str(caught.value)
