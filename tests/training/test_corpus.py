"""Text becomes documents: nothing lost, nothing twice, and a file that is not what it says is named with its line."""

import pytest

from ascendspeed.training import corpus
from ascendspeed.training.mistakes import Mistake


def test_the_manual_quotes_no_long_paragraph_twice():
    paragraphs = [" ".join(p.split()) for text in corpus.documents(None) for p in text.split("\n\n")]
    long = [p for p in paragraphs if len(p) >= 40]
    assert len(long) > 1000
    assert len(set(long)) == len(long)


def test_the_manual_is_the_language_reference():
    text = "\n".join(corpus.documents(None))
    assert len(text) > 200_000
    assert '"while"' in text


def test_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"paragraph {i} " + "word " * (i % 300) + "\nsecond line" for i in range(100)]
    file = tmp_path / "book.txt"
    file.write_text("\n\n\n".join(paragraphs) + "\n", encoding="utf-8")
    documents = list(corpus.documents(str(file)))
    assert "\n\n".join(documents) == "\n\n".join(paragraphs)
    assert all(len(document) >= 4096 for document in documents[:-1])
    assert len(documents) > 5


def test_text_without_blank_lines_is_cut_at_line_breaks_and_nothing_is_lost(tmp_path):
    lines = [f"the line number {i}" for i in range(3000)]
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    documents = list(corpus.documents(str(file)))
    assert "\n".join(documents).split("\n") == lines
    assert all(4096 <= len(document) < 4096 + len("the line number 3000") for document in documents[:-1])
    assert len(documents) > 10


def test_jsonl_gives_one_document_per_object(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n\n{"text": "  "}\n{"text": "zwölf", "id": 3}\n', encoding="utf-8")
    assert list(corpus.documents(str(file))) == ["one", "zwölf"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("{", "line 2: not JSON"), ('{"t": 1}', 'line 2: no object with a "text"'), ('["text"]', "line 2: no object")],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(Mistake, match=complaint):
        list(corpus.documents(str(file)))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc\xff\xfe")
    with pytest.raises(Mistake, match="not UTF-8 text"):
        list(corpus.documents(str(file)))


def test_the_fingerprint_follows_the_content_and_not_the_name(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    a.write_text("same"), b.write_text("same"), c.write_text("other")
    assert corpus.fingerprint(str(a)) == corpus.fingerprint(str(b)) != corpus.fingerprint(str(c))
    assert corpus.fingerprint(None) == corpus.fingerprint(None)
