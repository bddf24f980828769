"""The tokenizer loses no byte, is the same for the same text, and says what it lacks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascendspeed.training import tokenizer
from ascendspeed.training.mistakes import Mistake

TEXTS = ["the cat sat on the mat, the cat sat", "a dog and a cat"]
BPE = tokenizer.train(TEXTS, 300)


@given(st.text())
def test_encoding_is_lossless(text):
    assert BPE.decode(BPE.encode(text, add_special_tokens=False).ids) == text


def test_training_is_deterministic_and_bounded():
    assert tokenizer.train(TEXTS, 300).to_str() == BPE.to_str()
    assert 257 < BPE.get_vocab_size() <= 300


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(Mistake, match="--vocab-size=256"):
        tokenizer.train(TEXTS, 256)


def test_a_saved_tokenizer_loads_from_file_and_folder(tmp_path):
    file = tmp_path / "tokenizer.json"
    BPE.save(str(file))
    for path in (file, tmp_path):
        loaded, eod = tokenizer.load(str(path))
        assert loaded.to_str() == BPE.to_str()
        assert eod == BPE.token_to_id("<|endoftext|>")


def test_the_end_of_document_is_what_the_configuration_says(tmp_path):
    file = tmp_path / "tokenizer.json"
    BPE.save(str(file))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "a"}}))
    assert tokenizer.load(str(file))[1] == BPE.token_to_id("a")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<none>"}))
    with pytest.raises(Mistake, match="looked for <none>"):
        tokenizer.load(str(file))


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(Mistake, match="there is no"):
        tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(Mistake, match="not a Hugging Face tokenizer"):
        tokenizer.load(str(tmp_path))


def test_null_tokenizer_is_megatrons():
    described = tokenizer.null(100)
    assert (described.vocab_size, described.eod) == (101, 100)
