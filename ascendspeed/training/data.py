"""Samples for this rank: megatron-core's GPTDataset over the prepared tokens, and the micro-batches of it in order.

Sample i of the training order is the same whatever the number of ranks; a data-parallel rank takes its micro-batches
out of each global batch, and the ranks of its tensor-parallel group and pipeline all read the same samples.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from megatron.core import parallel_state
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.datasets.utils import Split as Part
from torch.utils.data import DataLoader, Dataset

from ascendspeed.training.configs import RunConfig
from ascendspeed.training.masks import Batch, SampleMasks
from ascendspeed.training.mistakes import Mistake, on_every_rank, on_rank_0
from ascendspeed.training.preprocess import Prepared, prepare, token_id
from ascendspeed.training.split import Split

__all__ = ["Data", "build", "cache_folder", "padded_vocab_size", "training_batches", "validation_batches"]


@dataclass(frozen=True)
class Data:
    """What a run trains and validates on; `valid` is None when --split has no validation part."""

    prepared: Prepared
    train: GPTDataset
    valid: GPTDataset | None
    masks: SampleMasks
    """What makes micro-batches of their samples."""
    train_tokens: int
    valid_tokens: int
    unigram_entropy: float | None
    """Entropy of the distribution of the validation tokens, nats: the loss of a model that knows their frequencies
    exactly and nothing else. None without a validation part."""


def build(run: RunConfig) -> Data:
    """Prepare the data on rank 0, check that it is enough for this run, and open it on every rank.

    `Mistake`, on all ranks, when the data is missing, empty, too short for --seq-length or not of the tokenizer.
    """
    cache = cache_folder(run)
    prepared, parts, unigram_entropy, prefix_end = on_rank_0(lambda: _prepare_and_measure(run, cache))
    on_every_rank(lambda: _check_visible(prepared, cache))
    split = Split.parse(run.data.split)
    config = GPTDatasetConfig(
        random_seed=run.training.seed,
        sequence_length=run.model.seq_length,
        blend=([prepared.prefix], None),
        split=split.text,
        path_to_cache=prepared.index_cache,
        tokenizer=prepared.tokenizer,
        reset_position_ids=run.data.reset_position_ids,
        reset_attention_mask=run.data.reset_attention_mask,
        eod_mask_loss=run.data.eod_mask_loss,
        create_attention_mask=False,  # the operator masks by its sparse mode, and keeps documents apart by lengths
        drop_last_partial_validation_sequence=False,
    )
    assert config.split_matrix is not None
    config.split_matrix[Part.test.value] = None  # nobody reads it
    sizes = [run.training.train_iters * run.global_batch_size, None, None]
    train, valid, _ = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()
    masks = SampleMasks(run.data.reset_attention_mask, prepared.tokenizer.eod, prefix_end)
    return Data(prepared, train, valid, masks, *parts, unigram_entropy)


def training_batches(data: Data, run: RunConfig, iteration: int) -> Iterator[Batch]:
    """This rank's micro-batches from after `iteration` iterations to the end of the training, in order."""
    samples = run.global_batch_size
    return _batches(data, data.train, run, iteration * samples, run.training.train_iters * samples)


def validation_batches(data: Data, run: RunConfig) -> tuple[int, Iterator[Batch]]:
    """The number of micro-batches of one validation on this rank, and the micro-batches: the same every time.

    That is --eval-iters global batches, at most one pass; the whole part with --full-validation; none without a part.
    """
    if data.valid is None or (run.report.eval_iters == 0 and not run.report.full_validation):
        return 0, iter(())
    batches = math.ceil(len(data.valid) / run.global_batch_size)
    if not run.report.full_validation:
        batches = min(run.report.eval_iters, batches)
    return batches * run.num_microbatches, _batches(data, data.valid, run, 0, batches * run.global_batch_size)


def _batches(data: Data, dataset: Dataset[Batch], run: RunConfig, first: int, last: int) -> Iterator[Batch]:
    """This rank's micro-batches of samples `first` to `last` (not included) of `dataset`, in order.

    Past the end of the dataset come samples whose loss mask is 0, so that every rank gets equally many micro-batches.
    """
    order = _MicroBatches(
        length=len(dataset),  # type: ignore[arg-type]
        first=first,
        last=last,
        size=run.training.micro_batch_size,
        rank=parallel_state.get_data_parallel_rank() // run.sequence_slices,  # neighbours share their samples
        ranks=run.data_parallel_size,
    )
    # A loader draws a seed for its workers when it starts. From the default generator that would move the dropout of
    # everything after it, and a resumed run, which starts its loader in the middle, would drop other numbers.
    own = torch.Generator().manual_seed(run.training.seed)
    loader = DataLoader(
        dataset, batch_sampler=order, num_workers=run.data.num_workers, generator=own, collate_fn=data.masks
    )
    return iter(loader)


def padded_vocab_size(vocab_size: int, run: RunConfig) -> int:
    """Rows of the embedding: --padded-vocab-size, or `vocab_size` rounded up to an equal, round share for every rank.

    `Mistake` if --padded-vocab-size does not hold the vocabulary.
    """
    if run.model.padded_vocab_size is not None:
        if run.model.padded_vocab_size < vocab_size:
            raise Mistake(
                f"--padded-vocab-size={run.model.padded_vocab_size} is less than the tokenizer's {vocab_size} tokens"
            )
        return run.model.padded_vocab_size
    multiple = run.model.make_vocab_size_divisible_by * run.parallel.tensor_model_parallel_size
    return math.ceil(vocab_size / multiple) * multiple


def cache_folder(run: RunConfig) -> Path:
    """Where prepared data lies: --data-cache-path, else SAVE/data-cache, else the user's cache folder."""
    if run.data.data_cache_path is not None:
        return Path(run.data.data_cache_path)
    if run.checkpoint.save is not None:
        return Path(run.checkpoint.save) / "data-cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ascendspeed" / "data"


class _MicroBatches:
    """Indices of one rank's micro-batches; None stands for a sample past the end of the dataset."""

    def __init__(self, length: int, first: int, last: int, size: int, rank: int, ranks: int) -> None:
        self._length = length
        self._starts = range(first + rank * size, last, size * ranks)
        self._size = size

    def __iter__(self) -> Iterator[list[int | None]]:
        for start in self._starts:
            yield [i if i < self._length else None for i in range(start, start + self._size)]

    def __len__(self) -> int:
        return len(self._starts)


def _prepare_and_measure(run: RunConfig, cache: Path) -> tuple[Prepared, tuple[int, int], float | None, int | None]:
    """The prepared data, the tokens of its training and validation part, the unigram entropy of the latter, and the
    token that ends a prefix."""
    split = Split.parse(run.data.split)
    prepared = prepare(run.data, cache)
    padded_vocab_size(prepared.tokenizer.vocab_size, run)  # or refuses, before anything is built
    dataset = IndexedDataset(prepared.prefix)
    parts = split.documents(len(dataset))
    tokens = tuple(int(dataset.sequence_lengths[first:last].sum()) for first, last in parts)
    needed = run.model.seq_length + 1  # a sample and the label of its last token
    if tokens[0] < needed:
        raise Mistake(
            f"--seq-length={run.model.seq_length} needs {needed} tokens, "
            f"but the training part of {prepared.source} has {tokens[0]}"
        )
    prefix_end = _prefix_end(run, prepared, dataset, *parts.train)
    if split.valid is None:
        return prepared, (tokens[0], 0), None, prefix_end
    if tokens[1] < needed:
        raise Mistake(
            f"--seq-length={run.model.seq_length} needs {needed} tokens, but the validation part of {prepared.source} "
            f"has {tokens[1]}; give it more of --split={split.text}, or nothing (1,0,0)"
        )
    entropy = _entropy(dataset, *parts.valid, prepared.tokenizer.vocab_size)
    return prepared, (tokens[0], tokens[1]), entropy, prefix_end


def _prefix_end(run: RunConfig, prepared: Prepared, dataset: IndexedDataset, first: int, last: int) -> int | None:
    """The token that ends a prefix, None without --prefix-lm. Documents `first` to `last` are those trained on."""
    said = run.data.prefix_end_token
    if said is None:
        return None
    token = token_id("--prefix-end-token", said, run.data, prepared)
    if token == prepared.tokenizer.eod:
        raise Mistake(f"--prefix-end-token={said} is the token that ends a document: nothing would follow a prefix")
    if not any((dataset[document] == token).any() for document in range(first, last)):
        raise Mistake(
            f"--prefix-end-token={said} (id {token}) is nowhere in the training part of {prepared.source}: "
            "--prefix-lm would train without prefixes"
        )
    return token


def _entropy(dataset: IndexedDataset, first: int, last: int, vocab_size: int) -> float:
    """Entropy in nats of the distribution of the tokens of documents `first` to `last`."""
    counts = numpy.zeros(vocab_size, dtype=numpy.int64)
    for document in range(first, last):
        counts += numpy.bincount(dataset[document], minlength=vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * numpy.log(shares)).sum())


def _check_visible(prepared: Prepared, cache: Path) -> None:
    if not os.path.isfile(prepared.prefix + ".idx"):
        raise Mistake(
            f"rank {torch.distributed.get_rank()} does not see {prepared.prefix}.idx, which rank 0 does; "
            f"--data-path and --data-cache-path ({cache}) must be on a file system that all nodes share"
        )
