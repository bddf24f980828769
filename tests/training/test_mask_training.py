"""The trainer's masks end to end: a micro-batch's loss and gradients are those of a dense mask; runs can be resumed.

The dense masks are Megatron's own for --reset-attention-mask, made by its GPTDataset, with the prefixes put in; the
attention that takes them is megatron-core's. float32: a tensor's error is max|a - b| / max|b|, allowed is 1e-5 as in
tests/integrations/megatron/test_agreement.py.
"""

import json
from pathlib import Path

import pytest
import torch
from megatron.core.datasets.gpt_dataset import _get_ltor_masks_and_position_ids
from torch.utils.data import default_collate

from ascendspeed import device as devices
from ascendspeed.training import data, flags, model, step
from ascendspeed.training.initialize import world
from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.pretrain_gpt import main
from tests.support.bounds import largest
from tests.support.ranks import run_ranks
from tests.training.settings import SMALL

LENGTHS = ["--seq-length", "32", "--max-position-embeddings", "32", "--vocab-size", "300", "--split", "90,10,0"]
PREFIX = ["--prefix-lm", "--prefix-end-token", "|"]
PACKED = ["--reset-attention-mask"]
ROPE = ["--position-embedding-type", "rope"]
CASES = {
    "packed, learned positions": [*PACKED, "--reset-position-ids"],
    "packed, learned positions that go on": PACKED,
    "packed, rotary, loss without ends": [*PACKED, *ROPE, "--eod-mask-loss"],
    "packed, rotary, window in every second layer": [
        *(*PACKED, *ROPE, "--window-size", "4,0", "--window-attn-skip-freq", "2")
    ],
    "prefix": [*PREFIX, *ROPE],
    "prefix of each document": [*PREFIX, *PACKED, "--reset-position-ids"],
    "ALiBi, packed": [*PACKED, "--position-embedding-type", "alibi"],
    "window, learned positions from 0": ["--window-size", "(4,0)", "--reset-position-ids"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[str]:
    """Questions and answers of a few tokens: several documents in a sample of 32, and separators in most."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [
        json.dumps({"text": f"{n} times {n % 7}|{n * (n % 7)}" if n % 5 else f"{n} is a number"}) for n in range(900)
    ]
    (folder / "sums.jsonl").write_text("\n".join(lines))
    return ["--data-path", str(folder / "sums.jsonl"), "--data-cache-path", str(folder / "cache")]


def _errors(argv: list[list[str]]) -> dict[int, list[dict[str, float]]]:
    """On each of two ranks: the error of loss and gradients of each run's first micro-batch, by the number of ranks
    that are tensor-parallel."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    from ascendspeed.device import cuda_shim

    cuda_shim.install(devices.current())
    found = {}
    for ranks, parallel in ((1, []), (2, ["--tensor-model-parallel-size", "2", "--sequence-parallel"])):
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=ranks)
        torch.manual_seed(1)  # position embeddings are drawn on the CPU, alike on every rank
        model_parallel_cuda_manual_seed(1)
        found[ranks] = [_error(flags.parse([*words, *parallel], world_size=2)) for words in argv]
        parallel_state.destroy_model_parallel()
    return found


def _error(run) -> dict[str, float]:
    from ascendspeed.training import model
    from ascendspeed.training.step import _forward_step

    here = devices.current().current_device()
    built = data.build(run)
    batches = data.training_batches(built, run, 0)
    config = model.transformer_config(run)
    ours = model.build_chunk(run, config, built.prepared.tokenizer.vocab_size).to(here)
    losses, add_up = _forward_step(here, batches, ours)
    loss, tokens, _ = add_up(losses)
    (loss / tokens).backward()

    samples, mask = _dense(run, built)
    theirs = _megatrons(run, ours).to(here)
    output = theirs(
        *(samples[name].to(here) for name in ("tokens", "position_ids")),
        mask.to(here),
        labels=samples["labels"].to(here),
    )
    weights = samples["loss_mask"].to(here)
    expected = (output.float() * weights).sum() / weights.sum()
    expected.backward()
    gradients = _gradients(theirs)
    worst = largest(
        float((mine - gradients[name]).abs().max() / gradients[name].abs().max())
        for name, mine in _gradients(ours).items()
    )
    return {
        "loss": float((loss / tokens - expected).detach().abs() / expected.detach()),
        "gradient": worst,
        "tokens": float(tokens),
        "documents": float((samples["tokens"] == built.prepared.tokenizer.eod).sum()),
    }


def _gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What sequence parallelism leaves in parts, of other tokens in a packed row than in samples, is added up."""
    group = data.parallel_state.get_tensor_model_parallel_group()
    for parameter in model.parameters():
        if getattr(parameter, "sequence_parallel", False):
            torch.distributed.all_reduce(parameter.grad, group=group)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _dense(run, built):
    """The same samples without our collate function, and their mask [B, 1, S, S], True = left out."""
    rank = data.parallel_state.get_data_parallel_rank()
    size = run.training.micro_batch_size
    samples = default_collate([built.train[rank * size + i] for i in range(size)])
    eod, masks = built.prepared.tokenizer.eod, []
    separator = built.masks.prefix_end
    for row, loss_mask in zip(samples["tokens"], samples["loss_mask"], strict=True):
        packed = run.data.reset_attention_mask
        mask = _get_ltor_masks_and_position_ids(row, eod, False, packed, False, True)[0][0]
        if separator is not None:
            starts = [0, *((row == eod).nonzero().flatten() + 1).tolist()] if packed else [0]
            for start, end in zip(starts, [*starts[1:], len(row)], strict=True):
                separators = (row[start:end] == separator).nonzero().flatten().tolist()
                if separators:
                    stop = start + separators[0] + 1
                    mask[start:end, start:stop] = False
                    loss_mask[start : stop - 1] = 0  # what is asked for there is seen
        masks.append(mask)
    return samples, torch.stack(masks).unsqueeze(1)


def _megatrons(run, ours):
    """The model with Megatron's own attention and the weights of ours."""
    from megatron.core.models.gpt import GPTModel

    from ascendspeed.integrations.megatron import get_gpt_layer_spec
    from ascendspeed.training import model
    from tests.integrations.megatron.dense_attention import DenseAttention

    class WithWindow(DenseAttention):
        """A window is one more reason to leave a key out."""

        def forward(self, query, key, value, attention_mask, *args, **kwargs):
            window, every = run.model.window_size, run.model.window_attn_skip_freq
            if window is not None and (every is None or self.layer_number % every):
                i = torch.arange(attention_mask.shape[-1], device=attention_mask.device)
                attention_mask = attention_mask | (i.view(-1, 1) - i > window[0])
            return super().forward(query, key, value, attention_mask, *args, **kwargs)

    config = model.transformer_config(run)
    config.window_size = config.window_attn_skip_freq = None
    alibi = run.model.position_embedding_type == "alibi"
    gpt = GPTModel(
        config,
        get_gpt_layer_spec(config, mask="arbitrary", core_attention=WithWindow),
        vocab_size=ours.vocab_size,
        max_sequence_length=run.model.max_position_embeddings,
        position_embedding_type="none" if alibi else run.model.position_embedding_type,
        share_embeddings_and_output_weights=True,
    )
    gpt.load_state_dict(ours.state_dict())
    if alibi:
        for layer in gpt.decoder.layers:
            layer.self_attention.core_attention.add_alibi()
    return gpt


@pytest.fixture(scope="module")
def errors(corpus) -> list[dict[int, list[dict[str, float]]]]:
    return run_ranks(2, _errors, [[*SMALL, *LENGTHS, *corpus, *more] for more in CASES.values()], timeout=400)


@pytest.mark.distributed
@pytest.mark.parametrize("ranks", [1, 2], ids=["TP=1", "TP=2 SP"])
@pytest.mark.parametrize("name", CASES)
def test_a_micro_batch_is_that_of_a_dense_mask(name, ranks, errors):
    for rank in errors:
        found = rank[ranks][list(CASES).index(name)]
        assert found["documents"] > 2, "too few documents to tell anything"
        assert found["loss"] <= 1e-5, found
        assert found["gradient"] <= 1e-5, found


def history(save: Path) -> list[dict]:
    return [json.loads(line) for line in (save / "history.jsonl").read_text().splitlines()]


def test_a_resumed_run_has_the_masks_it_had(corpus, tmp_path, capsys):
    """Everything at once; a configuration of tuples compares equal to what JSON made of it."""
    command = [*SMALL, *LENGTHS, *corpus, *PACKED, *ROPE, "--attention-dropout", "0.1", "--eval-iters", "1"]
    command += ["--window-size", "4,0", "--window-attn-skip-freq", "[1,0]"]
    main([*command, "--save", str(tmp_path / "whole")])
    shown = capsys.readouterr().out
    assert "attention layers 1 | mask causal window (4, 0)" in shown
    assert "layout TND sparse_mode 4" in shown
    parts = [*command, "--save", str(tmp_path / "parts"), "--load", str(tmp_path / "parts")]
    main([*parts, "--exit-interval", "3"])
    main(parts)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "times",
            r"--prefix-end-token='times' is [23] tokens of the tokenizer \('t\w*' \d+, .*'\w*s' \d+\); it must be one: "
            "give a text that is a token by itself, or a token's id",
        ),
        ("300", "--prefix-end-token=300 is outside the vocabulary of 300"),
        ("@", r"--prefix-end-token=@ \(id \d+\) is nowhere in the training part of .*sums.jsonl: --prefix-lm would"),
        ("<|endoftext|>", r"--prefix-end-token=<\|endoftext\|> is the token that ends a document"),
    ],
)
def test_a_token_that_ends_no_prefix_is_a_mistake(said, message, corpus):
    with pytest.raises(Mistake, match=message):
        data.build(flags.parse([*SMALL, *LENGTHS, *corpus, "--prefix-lm", "--prefix-end-token", said], world_size=1))


def test_a_token_may_be_named_by_its_id(corpus):
    def build(said: str) -> data.Data:
        return data.build(
            flags.parse([*SMALL, *LENGTHS, *corpus, "--prefix-lm", "--prefix-end-token", said], world_size=1)
        )

    by_text = build("|").masks
    assert by_text.prefix_end is not None
    assert build(str(by_text.prefix_end)).masks == by_text


def test_too_many_documents_are_refused_with_the_flag_and_the_remedy():
    """The operator's limit with prefixes is 1024 documents; the data alone knows how many a micro-batch has."""
    run = flags.parse([*SMALL, *LENGTHS, *PREFIX, *PACKED, "--micro-batch-size", "65"], world_size=1)
    with world(run) as device:
        gpt = model.build(run, device, vocab_size=300)
        ids = torch.ones(1, 65 * 32, dtype=torch.int64)
        batch = {"tokens": ids, "labels": ids, "position_ids": ids, "loss_mask": ids.float()}
        batch["cu_seqlens"] = torch.arange(0, ids.numel() + 1, 2, dtype=torch.int32)
        batch["prefix"] = torch.zeros(65 * 16, dtype=torch.int64)
        said = r"^--reset-attention-mask: a micro-batch of 1040 documents was refused \(.*1040.*smaller --micro-b"
        with pytest.raises(ValueError, match=said):
            step._forward_step(device.current_device(), iter([batch]), gpt[0])
