"""From --data-path to tokens on disk: a tokenizer and Megatron's .bin/.idx pair, made once and kept by content.

Called by one process before training; `data` reads what is prepared here. As a program it writes a pair to keep:

    python -m ascendspeed.training.preprocess --input book.txt --output-prefix data/book --vocab-size 8000
"""

import argparse
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from tokenizers import Tokenizer

from ascendspeed.training import corpus, tokenizer
from ascendspeed.training.configs import DataConfig
from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.pair import token_dtype
from ascendspeed.training.split import Split
from ascendspeed.training.tokenizer import DatasetTokenizer

__all__ = ["Prepared", "main", "prepare", "token_id", "write"]

_FORMAT = "2"  # part of every key: a change of what is written below changes it
_TOKENS_PER_LOOK = 1 << 24


@dataclass(frozen=True)
class Prepared:
    """Data ready to be read: `prefix`.bin and .idx, the tokenizer that made them, a folder for sample indices."""

    prefix: str
    tokenizer: DatasetTokenizer
    index_cache: str
    source: str
    content: str
    """Key of the tokens' content: equal for equal data, wherever it lies."""


def prepare(data: DataConfig, cache: Path) -> Prepared:
    """Find or make the tokens that `data` asks for; what is made lands in a folder of `cache` named after its content.

    Meant for one process; the folder appears complete or not at all. `Mistake` for a path, a tokenizer or a vocabulary
    that does not fit.
    """
    path = data.data_path[0] if data.data_path else None
    if path is not None and not os.path.isfile(path):
        return _existing_pair(path, data, cache)
    if data.tokenizer_type == "NullTokenizer":
        raise Mistake("--tokenizer-type NullTokenizer cannot read text; it is for a Megatron .bin/.idx pair")
    given = _given_tokenizer(data)
    made = f"bpe {data.vocab_size} {data.split}"
    key = _key(_FORMAT, corpus.fingerprint(path), _identity(*given) if given else made)
    folder = cache / key
    if not (folder / "about.json").is_file():
        _make(folder, path, data, given)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return Prepared(
        prefix=str(folder / "tokens"),
        tokenizer=DatasetTokenizer(**about["tokenizer"]),
        index_cache=str(folder / "indices"),
        source=path or "the text of Python's manual (pydoc_data.topics)",
        content=key,
    )


def token_id(flag: str, said: str, data: DataConfig, prepared: Prepared) -> int:
    """The id that a flag's value means: a decimal number is the id itself, else the text of exactly one token."""
    vocab_size = prepared.tokenizer.vocab_size
    if said.isascii() and said.isdecimal():
        if int(said) >= vocab_size:
            raise Mistake(f"{flag}={said} is outside the vocabulary of {vocab_size}")
        return int(said)
    if data.tokenizer_type == "NullTokenizer":
        raise Mistake(f"{flag}={said}: data without a tokenizer (NullTokenizer) has numbers only; give the token's id")
    given = _given_tokenizer(data)
    encoder = given[0] if given else tokenizer.load(str(Path(prepared.prefix).parent))[0]
    found = encoder.encode(said, add_special_tokens=False)
    if len(found.ids) != 1:
        pieces = ", ".join(f"{token!r} {number}" for token, number in zip(found.tokens, found.ids, strict=True))
        raise Mistake(
            f"{flag}={said!r} is {len(found.ids)} tokens of the tokenizer ({pieces or 'none'}); it must be one: "
            "give a text that is a token by itself, or a token's id"
        )
    return int(found.ids[0])


def write(texts: Iterable[str], encoder: Tokenizer, eod: int, prefix: str) -> int:
    """Write every text, closed by `eod`, as one document of the pair `prefix`.bin/.idx; return the number of tokens."""
    dtype = DType.optimal_dtype(encoder.get_vocab_size())
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=dtype)
    tokens = 0
    for text in texts:
        ids = [*encoder.encode(text, add_special_tokens=False).ids, eod]
        builder.add_document(torch.tensor(ids), [len(ids)])
        tokens += len(ids)
    builder.finalize(prefix + ".idx")
    return tokens


def main(argv: Sequence[str] | None = None) -> None:
    """Text or jsonl to a .bin/.idx pair and its tokenizer.json."""
    parser = argparse.ArgumentParser(prog="python -m ascendspeed.training.preprocess", description=main.__doc__)
    parser.add_argument("--input", required=True, help="a text file, or a .jsonl file with a text per line")
    parser.add_argument("--output-prefix", required=True, help="path of the pair without .bin and .idx")
    parser.add_argument(
        "--tokenizer-model", help="a tokenizer.json; without it a byte-level BPE is trained on the input"
    )
    parser.add_argument("--vocab-size", type=int, default=tokenizer.DEFAULT_VOCAB_SIZE, help="tokens of that BPE")
    arguments = parser.parse_args(argv)
    prefix = arguments.output_prefix
    outputs = [prefix + suffix for suffix in (".bin", ".idx", "-tokenizer.json")]
    try:
        if not os.path.isfile(arguments.input):
            raise Mistake(f"--input {arguments.input}: there is no such file")
        for output in outputs:
            if os.path.exists(output):
                raise Mistake(f"--output-prefix {prefix}: {output} exists and is not overwritten")
        if arguments.tokenizer_model:
            encoder, eod = tokenizer.load(arguments.tokenizer_model)
        else:
            encoder = tokenizer.train(corpus.documents(arguments.input), arguments.vocab_size)
            eod = tokenizer.end_of_document(encoder, Path(outputs[2]))
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        tokens = write(corpus.documents(arguments.input), encoder, eod, prefix)
    except Mistake as mistake:
        parser.error(str(mistake))
    encoder.save(outputs[2])
    print(f"{tokens} tokens in {outputs[0]} and {outputs[1]}, tokenizer in {outputs[2]}")


def _make(folder: Path, path: str | None, data: DataConfig, given: tuple[Tokenizer, int] | None) -> None:
    """Fill `folder`: built beside it and renamed, so that a reader, or a run that was killed, never sees half of it."""
    count = sum(1 for _ in corpus.documents(path))  # the text is read again rather than held: it may not fit in memory
    if count == 0:
        raise Mistake(f"--data-path {path} holds no text")
    if given is None:
        # Trained on what the model trains on: the validation text has no say in how it is cut into tokens.
        first, last = Split.parse(data.split).documents(count).train
        texts = itertools.islice(corpus.documents(path), first, last)
        encoder = tokenizer.train(texts, data.vocab_size or tokenizer.DEFAULT_VOCAB_SIZE)
        eod = tokenizer.end_of_document(encoder, folder)
    else:
        encoder, eod = given
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    except OSError as error:
        raise Mistake(f"--data-cache-path {folder.parent} cannot be written: {error.strerror}") from None
    try:
        tokens = write(corpus.documents(path), encoder, eod, str(building / "tokens"))
        encoder.save(str(building / "tokenizer.json"))
        described = DatasetTokenizer(encoder.get_vocab_size(), eod, identity=folder.name)
        about = {"source": path, "documents": count, "tokens": tokens, "tokenizer": asdict(described)}
        (building / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
        building.chmod(0o755)  # mkdtemp's 0700 would shut out everybody else who shares the cache
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)  # gone already when all went well


def _existing_pair(path: str, data: DataConfig, cache: Path) -> Prepared:
    """A .bin/.idx pair that is used where it lies."""
    for suffix in (".bin", ".idx"):
        if not os.path.isfile(path + suffix):
            raise Mistake(f"--data-path {path}: there is neither a file of that name nor {path}{suffix}")
    described = _tokenizer_of_pair(path, data)
    stat = os.stat(path + ".bin")
    # The key covers the index's content and the state of the .bin file: sample indices, and the look at every token
    # below, belong to the data that was there then and not to whatever comes to lie at the same path.
    content = _key(_FORMAT, corpus.fingerprint(path + ".idx"), str(stat.st_size), described.identity)
    key = _key(content, os.path.abspath(path), str(stat.st_mtime_ns))
    folder = cache / key
    if not (folder / "about.json").is_file():
        _check_ids(path, described)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "about.json").write_text(json.dumps({"source": path, "tokenizer": asdict(described)}), "utf-8")
        except OSError as error:
            raise Mistake(f"--data-cache-path {cache} cannot be written: {error.strerror}") from None
    return Prepared(path, described, index_cache=str(folder / "indices"), source=path, content=content)


def _tokenizer_of_pair(path: str, data: DataConfig) -> DatasetTokenizer:
    if data.tokenizer_type == "NullTokenizer":
        if data.vocab_size is None:
            raise Mistake("--tokenizer-type NullTokenizer needs --vocab-size")
        return tokenizer.null(data.vocab_size)
    given = _given_tokenizer(data)
    if given is None:
        raise Mistake(
            f"--data-path {path} holds token ids: pass the --tokenizer-model that made them, "
            "or --tokenizer-type NullTokenizer and --vocab-size"
        )
    encoder, eod = given
    return DatasetTokenizer(encoder.get_vocab_size(), eod, identity=_identity(encoder, eod))


def _given_tokenizer(data: DataConfig) -> tuple[Tokenizer, int] | None:
    """The tokenizer named by the flags and its end-of-document id; None when none is named."""
    if data.tokenizer_model is None:
        if data.tokenizer_type == "HuggingFaceTokenizer":
            raise Mistake("--tokenizer-type HuggingFaceTokenizer needs --tokenizer-model")
        return None
    if data.tokenizer_type == "NullTokenizer":
        raise Mistake("--tokenizer-model has no effect with --tokenizer-type NullTokenizer; leave one of them out")
    encoder, eod = tokenizer.load(data.tokenizer_model)
    size = encoder.get_vocab_size()
    if data.vocab_size not in (None, size):
        raise Mistake(f"--vocab-size={data.vocab_size}, but --tokenizer-model {data.tokenizer_model} has {size} tokens")
    return encoder, eod


def _identity(encoder: Tokenizer, eod: int) -> str:
    """Key of a given tokenizer: its tokenizer.json, and the token that ends a document, which another file may name."""
    return _key(encoder.to_str(), str(eod))


def _check_ids(path: str, described: DatasetTokenizer) -> None:
    """`Mistake` if an id in the data is none of the tokenizer's: embedding and loss would silently mask it."""
    if os.path.getsize(path + ".bin") == 0:
        raise Mistake(f"--data-path {path}: {path}.bin holds no tokens")
    tokens = numpy.memmap(path + ".bin", dtype=token_dtype(path), mode="r")
    for start in range(0, len(tokens), _TOKENS_PER_LOOK):
        block = tokens[start : start + _TOKENS_PER_LOOK]
        for outside in (int(block.max()), int(block.min())):
            if not 0 <= outside < described.vocab_size:
                raise Mistake(
                    f"--data-path {path} holds token {outside}, outside the vocabulary of {described.vocab_size}"
                )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
