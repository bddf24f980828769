"""Whether two files are a Megatron .bin/.idx pair, before megatron-core maps them and trusts every number in them."""

import os
import struct
from typing import Any

import numpy
from megatron.core.datasets.indexed_dataset import DType

from ascendspeed.training.mistakes import Mistake

__all__ = ["token_dtype"]

# magic, version, code of the tokens' dtype, number of sequences, number of document bounds; then the length (int32) and
# the first byte (int64) of each sequence, and the bounds (int64). As megatron.core.datasets.indexed_dataset writes it.
_HEADER = struct.Struct("<9sQBQQ")
_MAGIC, _VERSION = b"MMIDIDX\0\0", 1
_BYTES_PER_SEQUENCE, _BYTES_PER_BOUND = 12, 8


def token_dtype(path: str) -> "numpy.dtype[Any]":
    """The dtype of the tokens in `path`.bin, as `path`.idx says; `Mistake` if the two files are not a pair."""
    index = path + ".idx"
    size = os.path.getsize(index)
    with open(index, "rb") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise _not_a_pair(path, f"{index} has {size} bytes, less than a header")
        magic, version, code, sequences, bounds = _HEADER.unpack(header)
        if (magic, version) != (_MAGIC, _VERSION):
            raise _not_a_pair(path, f"{index} does not start as an index of version {_VERSION}")
        if code not in {known.value for known in DType}:
            raise _not_a_pair(path, f"{index} names the unknown dtype {code}")
        expected = _HEADER.size + sequences * _BYTES_PER_SEQUENCE + bounds * _BYTES_PER_BOUND
        if size != expected:
            raise _not_a_pair(path, f"{index} has {size} bytes, its header asks for {expected}")
        lengths = numpy.fromfile(stream, "<i4", sequences).astype(numpy.int64)
        starts = numpy.fromfile(stream, "<i8", sequences)
        documents = numpy.fromfile(stream, "<i8", bounds)
    dtype = numpy.dtype(DType.dtype_from_code(code))
    bytes_there = os.path.getsize(path + ".bin")
    if bytes_there % dtype.itemsize:
        raise _not_a_pair(path, f"{path}.bin has {bytes_there} bytes, which {dtype} tokens do not fill")
    if (lengths < 0).any() or (starts < 0).any() or (starts + lengths * dtype.itemsize > bytes_there).any():
        raise _not_a_pair(path, f"{index} points outside the {bytes_there} bytes of {path}.bin")
    if (numpy.diff(documents) < 0).any() or documents[:1].tolist() != [0] or documents[-1:].tolist() != [sequences]:
        raise _not_a_pair(path, f"{index} has documents that are not made of its {sequences} sequences")
    return dtype


def _not_a_pair(path: str, why: str) -> Mistake:
    return Mistake(f"--data-path {path} is not a Megatron .bin/.idx pair: {why}")
