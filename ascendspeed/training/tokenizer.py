"""Text to token ids and back: a Hugging Face tokenizer, trained here or given, as Megatron's datasets ask for it.

Megatron needs of a tokenizer its size, its end-of-document id and a description that keys the cache of sample indices.
`NullTokenizer` is for data whose ids were made elsewhere.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ascendspeed.training.mistakes import Mistake

__all__ = ["DEFAULT_VOCAB_SIZE", "DatasetTokenizer", "load", "null", "train"]

DEFAULT_VOCAB_SIZE = 4096  # small enough for a model of a few million parameters to learn in minutes
_END_OF_DOCUMENT = "<|endoftext|>"
# Looked for in this order when no tokenizer_config.json says which token ends a document.
_END_NAMES = (_END_OF_DOCUMENT, "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "</s>", "<eos>", "[SEP]")
_BYTES = 256


@dataclass(frozen=True)
class DatasetTokenizer:
    """What megatron.core.datasets asks of a tokenizer. Ids are below `vocab_size`; `eod` ends every document."""

    vocab_size: int
    eod: int
    identity: str

    @property
    def unique_identifiers(self) -> dict[str, str]:
        """What Megatron writes into the description of a cached index."""
        return {"class": type(self).__name__, "identity": self.identity}


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE with at most `vocab_size` tokens, all bytes and the end-of-document token among them.

    The same texts in the same order give the same tokenizer. `Mistake` if `vocab_size` does not hold the bytes.
    """
    if vocab_size <= _BYTES:
        raise Mistake(f"--vocab-size={vocab_size}: a byte-level tokenizer needs at least {_BYTES + 1} tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load(path: str) -> tuple[Tokenizer, int]:
    """The tokenizer of a tokenizer.json, or of the folder that holds one, and its end-of-document id."""
    file = Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise Mistake(f"--tokenizer-model {path}: there is no {file}")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for a file it cannot read
        raise Mistake(f"--tokenizer-model {path}: {file} is not a Hugging Face tokenizer ({error})") from None
    return tokenizer, end_of_document(tokenizer, file)


def end_of_document(tokenizer: Tokenizer, file: Path) -> int:
    """The id that ends a document: "eos_token" of the tokenizer_config.json beside `file`, or a token so named."""
    names: tuple[str, ...] = _END_NAMES
    settings = file.parent / "tokenizer_config.json"
    if settings.is_file():
        said = json.loads(settings.read_text(encoding="utf-8")).get("eos_token")
        if said is not None:
            names = (said["content"] if isinstance(said, dict) else said,)
    for name in names:
        token = tokenizer.token_to_id(name)
        if token is not None:
            return int(token)
    raise Mistake(f"--tokenizer-model {file}: no token ends a document; looked for {', '.join(names)}")


def null(vocab_size: int) -> DatasetTokenizer:
    """Megatron's NullTokenizer: ids below `vocab_size` are the data's own and `vocab_size` itself ends a document."""
    return DatasetTokenizer(vocab_size=vocab_size + 1, eod=vocab_size, identity=f"null-{vocab_size}")
