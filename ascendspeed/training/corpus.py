"""Raw text as documents: Python's own manual, a text file or a .jsonl file. Tokens are `preprocess`'s business."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ascendspeed.training.mistakes import Mistake

__all__ = ["documents", "fingerprint"]

# A text without document marks is cut at blank lines into documents of at least this many characters: long enough for
# a sample, short enough that the parts of --split come out close to the shares asked for. A paragraph that has as many
# ends at its next line break, so that a text without blank lines has documents too.
_DOCUMENT_CHARACTERS = 4096
# A paragraph at least this long that was seen before is left out of Python's manual: its topics quote one another, and
# a quotation across the border of the split would let the model be examined on what it has read.
_QUOTATION_CHARACTERS = 40
_BLOCK_BYTES = 1 << 20


def documents(path: str | None) -> Iterator[str]:
    """The documents of `path` in order, none empty; Python's manual when it is None.

    `.jsonl`: one object per line, its "text" is a document. Anything else is UTF-8 text, cut at blank lines, and at
    line breaks where there is none for long.
    `Mistake` names the file, the line and the rule.
    """
    if path is None:
        yield from _cut(_manual_paragraphs())
    elif path.endswith(".jsonl"):
        yield from _jsonl(Path(path))
    else:
        yield from _cut(_paragraphs(Path(path)))


def fingerprint(path: str | None) -> str:
    """A SHA-256 of the text behind `path`, hexadecimal: equal for equal content, wherever it lies."""
    digest = hashlib.sha256()
    if path is None:
        for paragraph in _manual_paragraphs():
            digest.update(paragraph.encode() + b"\n")
    else:
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _manual_paragraphs() -> Iterator[str]:
    """Paragraphs of the language reference that every CPython carries for `help()`, each long one once."""
    from pydoc_data.topics import topics  # a large module, read only when it is the corpus

    seen: set[str] = set()
    for topic in sorted(topics):
        for paragraph in topics[topic].split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) >= _QUOTATION_CHARACTERS and words in seen:
                continue
            seen.add(words)
            if words:
                yield paragraph


def _paragraphs(path: Path) -> Iterator[str]:
    lines: list[str] = []
    characters = 0
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                if line.strip():
                    lines.append(line)
                    characters += len(line)
                if lines and (not line.strip() or characters > _DOCUMENT_CHARACTERS):  # more: the line break goes
                    yield "".join(lines).rstrip("\n")
                    lines, characters = [], 0
    except UnicodeDecodeError as error:
        raise Mistake(f"--data-path {path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if lines:
        yield "".join(lines).rstrip("\n")


def _cut(paragraphs: Iterable[str]) -> Iterator[str]:
    """Join paragraphs, with a blank line between them, into documents."""
    document: list[str] = []
    for paragraph in paragraphs:
        document.append(paragraph)
        if sum(map(len, document)) >= _DOCUMENT_CHARACTERS:
            yield "\n\n".join(document)
            document = []
    if document:
        yield "\n\n".join(document)


def _jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:  # JSONDecodeError and UnicodeDecodeError both are
                raise Mistake(f"--data-path {path}, line {number}: not JSON ({error})") from None
            if not isinstance(record, dict) or not isinstance(record.get("text"), str):
                raise Mistake(f'--data-path {path}, line {number}: no object with a "text" string')
            if record["text"].strip():
                yield record["text"]
