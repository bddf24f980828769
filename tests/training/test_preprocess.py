"""Data is prepared once per content, completely or not at all, and what does not fit together is refused."""

import json

import numpy
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from ascendspeed.training import preprocess, tokenizer
from ascendspeed.training.configs import DataConfig
from ascendspeed.training.mistakes import Mistake

TEXT = "\n\n".join(f"Paragraph {i} says that {i} plus {i} is {2 * i}, " * 20 for i in range(60))


@pytest.fixture
def book(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def config(path, **more) -> DataConfig:
    return DataConfig(data_path=(str(path),), **{"split": "90,10,0", "vocab_size": 300, **more})


def refusal(path, cache, **more) -> str:
    with pytest.raises(Mistake) as caught:
        preprocess.prepare(config(path, **more), cache)
    return str(caught.value)


def test_tokens_decode_to_the_text_with_an_end_after_each_document(book, tmp_path):
    prepared = preprocess.prepare(config(book), tmp_path / "cache")
    encoder, eod = tokenizer.load(str(tmp_path / "cache" / prepared.content))
    dataset = IndexedDataset(prepared.prefix)
    documents = [dataset[i] for i in range(len(dataset))]
    assert all(document[-1] == eod == prepared.tokenizer.eod for document in documents)
    assert "\n\n".join(encoder.decode(document[:-1]) for document in documents) == TEXT


def test_the_second_time_nothing_is_made(book, tmp_path):
    first = preprocess.prepare(config(book), tmp_path / "cache")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*")}
    copy = tmp_path / "copy.txt"
    copy.write_text(TEXT, encoding="utf-8")
    assert preprocess.prepare(config(copy), tmp_path / "cache").content == first.content
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "cache").rglob("*")} == before


def test_other_text_vocabulary_or_split_is_other_content(book, tmp_path):
    contents = {preprocess.prepare(config(book), tmp_path / "cache").content}
    contents.add(preprocess.prepare(config(book, vocab_size=320), tmp_path / "cache").content)
    contents.add(preprocess.prepare(config(book, split="50,50,0"), tmp_path / "cache").content)
    book.write_text(TEXT + "more", encoding="utf-8")
    contents.add(preprocess.prepare(config(book), tmp_path / "cache").content)
    assert len(contents) == 4


def test_the_tokenizer_is_trained_on_training_documents_alone(book, tmp_path):
    file = tmp_path / "two.jsonl"
    file.write_text(json.dumps({"text": "aaab" * 200}) + "\n" + json.dumps({"text": "xyxyz" * 200}), encoding="utf-8")
    prepared = preprocess.prepare(config(file, split="1,1,0"), tmp_path / "cache")
    encoder, _ = tokenizer.load(str(tmp_path / "cache" / prepared.content))
    assert encoder.token_to_id("aa") is not None
    assert encoder.token_to_id("xy") is None


def test_a_preparation_that_fails_leaves_nothing(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\nnot json\n', encoding="utf-8")
    assert "line 2" in refusal(file, tmp_path / "cache")
    assert not list(tmp_path.glob("cache/*"))


@pytest.mark.parametrize("name", ["empty.txt", "blank.txt", "empty.jsonl"])
def test_an_empty_corpus_is_refused(tmp_path, name):
    (tmp_path / name).write_text("\n  \n" if name == "blank.txt" else "")
    assert "holds no text" in refusal(tmp_path / name, tmp_path / "cache")


def test_a_missing_file_is_refused(tmp_path):
    said = refusal(tmp_path / "nowhere.txt", tmp_path / "cache")
    assert "nowhere.txt" in said
    assert "there is neither a file of that name nor" in said


def pair(tmp_path, book, **more):
    """A .bin/.idx pair as the program writes it, and its tokenizer."""
    prefix = tmp_path / "pair" / "book"
    preprocess.main(["--input", str(book), "--output-prefix", str(prefix), "--vocab-size", "300"])
    return prefix, f"{prefix}-tokenizer.json"


def test_a_pair_is_read_where_it_lies(book, tmp_path):
    prefix, model = pair(tmp_path, book)
    prepared = preprocess.prepare(config(prefix, tokenizer_model=model), tmp_path / "cache")
    assert prepared.prefix == str(prefix)
    assert prepared.tokenizer.vocab_size == 300
    again = preprocess.prepare(config(prefix, tokenizer_model=model), tmp_path / "cache")
    assert again == prepared


def test_the_end_of_a_document_is_part_of_the_content(book, tmp_path):
    prefix, model = pair(tmp_path, book)
    settings = tmp_path / "pair" / "tokenizer_config.json"

    def contents() -> set[str]:
        return {preprocess.prepare(config(p, tokenizer_model=model), tmp_path / "c").content for p in (book, prefix)}

    before = contents()
    settings.write_text('{"eos_token": "a"}')
    assert not before & contents()


def test_a_pair_needs_to_be_told_its_tokenizer(book, tmp_path):
    prefix, model = pair(tmp_path, book)
    assert "pass the --tokenizer-model that made them" in refusal(prefix, tmp_path / "cache")
    assert "needs --vocab-size" in refusal(prefix, tmp_path / "cache", tokenizer_type="NullTokenizer", vocab_size=None)
    assert "has no effect with --tokenizer-type NullTokenizer" not in refusal(prefix, tmp_path / "cache")
    null = preprocess.prepare(config(prefix, tokenizer_type="NullTokenizer"), tmp_path / "cache")
    assert null.tokenizer.vocab_size == 301
    assert f"--vocab-size=299, but --tokenizer-model {model} has 300" in refusal(
        prefix, tmp_path / "cache", tokenizer_model=model, vocab_size=299
    )


def test_ids_outside_the_vocabulary_are_refused(book, tmp_path):
    prefix, _ = pair(tmp_path, book)
    largest = int(numpy.fromfile(f"{prefix}.bin", dtype=IndexedDataset(str(prefix)).index.dtype).max())
    fits = preprocess.prepare(
        config(prefix, tokenizer_type="NullTokenizer", vocab_size=largest), tmp_path / "cache"
    )  # the id that ends a document is `vocab_size` itself
    assert fits.tokenizer.vocab_size == largest + 1
    said = refusal(prefix, tmp_path / "cache", tokenizer_type="NullTokenizer", vocab_size=largest - 1)
    assert f"holds token {largest}, outside the vocabulary of {largest}" in said


def test_a_pair_without_tokens_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "a.idx").write_bytes(b"")
    assert "holds no tokens" in refusal(tmp_path / "a", tmp_path / "cache", tokenizer_type="NullTokenizer")


def test_a_corrupt_pair_is_refused_before_anything_is_made(book, tmp_path):
    prefix, model = pair(tmp_path, book)
    prefix.with_suffix(".idx").write_bytes(b"corrupt")
    assert "is not a Megatron .bin/.idx pair" in refusal(prefix, tmp_path / "cache", tokenizer_model=model)
    assert not (tmp_path / "cache").exists()


def test_text_has_no_null_tokenizer(book, tmp_path):
    assert "cannot read text" in refusal(book, tmp_path / "cache", tokenizer_type="NullTokenizer")


def test_the_program_overwrites_nothing(book, tmp_path, capsys):
    pair(tmp_path, book)
    with pytest.raises(SystemExit) as left:
        pair(tmp_path, book)
    assert left.value.code == 2
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(book, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert f"--data-cache-path {tmp_path / 'cache'} cannot be written" in refusal(book, tmp_path / "cache")
