"""What is trained on is never validated on, every rank takes its own part, and the yardstick is the true entropy."""

import math

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import IndexedDataset

from ascendspeed.training import data, flags
from ascendspeed.training.mistakes import Mistake
from tests.training.settings import SMALL


def build(tmp_path, *more: str) -> data.Data:
    return data.build(flags.parse([*SMALL, "--data-cache-path", str(tmp_path / "cache"), *more], world_size=1))


def windows(dataset: IndexedDataset, documents, length: int) -> set[bytes]:
    """Every run of `length` consecutive tokens in `documents`."""
    found = set()
    for i in documents:
        tokens = dataset[int(i)].astype(numpy.int32)
        found |= {tokens[j : j + length].tobytes() for j in range(len(tokens) - length + 1)}
    return found


def test_validation_text_was_not_trained_on(tmp_path):
    """No document is in both parts, and of 32 tokens in a row (about 100 characters) fewer than 1 % are."""
    built = build(tmp_path, "--split", "90,10,0", "--vocab-size", "2048")
    assert not set(built.train.indices) & set(built.valid.indices)
    dataset = IndexedDataset(built.prepared.prefix)
    trained = windows(dataset, built.train.indices, 32)
    validated = windows(dataset, built.valid.indices, 32)
    assert len(validated) > 5000
    assert len(validated & trained) < 0.01 * len(validated)


def test_every_validation_token_is_predicted_once_with_full_validation(tmp_path):
    built = build(tmp_path, "--split", "90,10,0", "--vocab-size", "512")
    scored = sum(int(built.valid[i]["loss_mask"].sum()) for i in range(len(built.valid)))
    assert scored == built.valid_tokens - 1  # the first has nothing before it


def test_a_sample_past_the_end_weighs_nothing(tmp_path):
    built = build(tmp_path, "--split", "90,10,0", "--vocab-size", "512")
    assert float(built.valid[None]["loss_mask"].sum()) == 0


def test_labels_are_the_next_tokens(tmp_path):
    built = build(tmp_path, "--vocab-size", "512")
    sample = built.train[0]
    assert sample["tokens"][1:].tolist() == sample["labels"][:-1].tolist()
    assert len(built.train) >= 6 * 2  # iterations x global batch


def test_unigram_entropy_of_a_known_text(tmp_path):
    """Validation: one document of 30 'a', 10 'b' and the end-of-document token."""
    file = tmp_path / "two.jsonl"
    # No two equal bytes beside each other are merged: a vocabulary of 257 holds the bytes and no merge.
    file.write_text('{"text": "' + "ab" * 200 + '"}\n{"text": "' + "a" * 30 + "b" * 10 + '"}\n')
    built = build(tmp_path, "--data-path", str(file), "--split", "1,1,0", "--vocab-size", "257")
    shares = [30 / 41, 10 / 41, 1 / 41]
    assert built.valid_tokens == 41
    assert built.unigram_entropy == pytest.approx(-sum(p * math.log(p) for p in shares), abs=1e-12)


def test_the_order_depends_on_the_seed_alone(tmp_path):
    def tokens(*more):
        return [build(tmp_path, "--vocab-size", "512", *more).train[i]["tokens"].tolist() for i in range(4)]

    assert tokens() == tokens()
    assert tokens() != tokens("--seed", "7")


def test_a_sequence_longer_than_the_data_is_refused(tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("a few words\n")
    with pytest.raises(
        Mistake, match=r"--seq-length=16 needs 17 tokens, but the training part of .*short.txt has \d+$"
    ):
        build(tmp_path, "--data-path", str(file), "--split", "1,0,0", "--vocab-size", "300")


def test_a_validation_part_too_short_says_what_to_do(tmp_path):
    file = tmp_path / "one.txt"
    file.write_text("words " * 100)
    with pytest.raises(Mistake, match=r"validation part of .* has 0; give it more of --split=969,30,1, or nothing"):
        build(tmp_path, "--data-path", str(file), "--vocab-size", "300")
    built = build(tmp_path, "--data-path", str(file), "--vocab-size", "300", "--split", "1,0,0")
    assert built.valid is None
    assert built.unigram_entropy is None


def test_without_a_cache_path_it_lies_in_save_or_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_folder(flags.parse(SMALL, world_size=1)) == tmp_path / "ascendspeed" / "data"
    saved = flags.parse([*SMALL, "--save", str(tmp_path / "s")], world_size=1)
    assert data.cache_folder(saved) == tmp_path / "s" / "data-cache"


@given(
    size=st.integers(1, 4),
    ranks=st.integers(1, 4),
    steps=st.integers(0, 5),
    start=st.integers(0, 3),
    short=st.integers(0, 9),
)
def test_ranks_share_out_every_global_batch(size, ranks, steps, start, short):
    """Each global batch is in all ranks' micro-batches exactly once, in rank order; past the end stands None."""
    batch = size * ranks
    first, last = start * batch, (start + steps) * batch
    length = max(0, last - short)
    parts = [list(data._MicroBatches(length, first, last, size, rank, ranks)) for rank in range(ranks)]
    assert all(len(part) == steps for part in parts)
    order = [index for step in range(steps) for part in parts for index in part[step]]
    assert order == [i if i < length else None for i in range(first, last)]


@pytest.mark.parametrize(("vocab", "tp", "rows"), [(100, 1, 128), (128, 1, 128), (129, 2, 256), (2048, 2, 2048)])
def test_vocabulary_rows_divide_over_the_tensor_parallel_ranks(vocab, tp, rows):
    run = flags.parse([*SMALL, "--tensor-model-parallel-size", str(tp)], world_size=tp)
    assert data.padded_vocab_size(vocab, run) == rows


def test_vocabulary_rows_can_be_given():
    run = flags.parse([*SMALL, "--padded-vocab-size", "130"], world_size=1)
    assert data.padded_vocab_size(100, run) == data.padded_vocab_size(130, run) == 130
    with pytest.raises(Mistake, match="--padded-vocab-size=130 is less than the tokenizer's 131 tokens"):
        data.padded_vocab_size(131, run)
