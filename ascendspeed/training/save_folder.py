"""The folder of --save and --load: what belongs to whom, and which iteration is the latest. No tensor is read here.

    SAVE/configuration.json                    what is being trained; a run of another configuration is refused
    SAVE/iter_0000100/                         a checkpoint, see `checkpoint`
    SAVE/latest_checkpointed_iteration.txt     the last complete one, as Megatron-LM names it
    SAVE/history.jsonl, loss.png               every iteration's loss, and the curve, see `history`
    SAVE/tensorboard/, SAVE/data-cache/        events and prepared data, unless flags put them elsewhere

All functions are for one process.
"""

import json
import os
import platform
import time
import uuid
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path

from ascendspeed import device as devices
from ascendspeed.integrations.apex import choose_adam
from ascendspeed.training.configs import RunConfig
from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.preprocess import Prepared

__all__ = [
    "CONFIGURATION",
    "TRACKER",
    "check_shared",
    "checkpoint_path",
    "claim",
    "latest_iteration",
    "look_at",
    "write_atomically",
]

CONFIGURATION = "configuration.json"
TRACKER = "latest_checkpointed_iteration.txt"
_ADAM = "optimizer"
_DATA_CACHE = "data-cache"  # may be there before the first run has got as far as writing its configuration
# Settings that may differ in a run that continues another one; all others must be equal. train_iters is among them so
# that a training can be made longer, although the order of samples depends on it: GPTDataset shuffles epochs together.
_FREE = {
    "parallel": {"distributed_timeout_minutes"},
    "training": {"train_iters", "exit_interval"},
    # The content of the data, which covers the tokenizer's, is compared instead.
    "data": {"data_path", "data_cache_path", "num_workers", "tokenizer_type", "tokenizer_model"},
    "deepspeed": {"deepspeed_config"},
    "checkpoint": None,
    "report": None,
}
_FOLLOWS_FROM = {"--lr-decay-iters": " (--train-iters unless given)"}


def look_at(run: RunConfig) -> int | None:
    """Check --save and --load before anything is written; return the iteration to continue from, None to start anew.

    `Mistake` when --save holds something that is not ours, is another configuration's, or holds a checkpoint that this
    run would not continue; when --load is another configuration's or names a checkpoint that is not there.
    """
    save = run.checkpoint.save
    load = run.checkpoint.load
    if save is not None:
        _check_save(run, Path(save))
    if load is None:
        return None
    _check_configuration("--load", Path(load), _settings(run))
    iteration = latest_iteration(Path(load))
    if iteration is None and run.checkpoint.exit_on_missing_checkpoint:
        raise Mistake(f"--load {load} has no {TRACKER}, and --exit-on-missing-checkpoint is given")
    if iteration is not None and not checkpoint_path(Path(load), iteration).is_dir():
        missing = checkpoint_path(Path(load), iteration)
        raise Mistake(f"--load {load}: {TRACKER} names iteration {iteration}, but {missing} is missing")
    return iteration


def claim(run: RunConfig, prepared: Prepared) -> str:
    """Compare the data too, and write the configuration into --save. From here on the folder is this run's.

    Says so when another Adam goes on: apex may come and go, and what they compute is equal to rounding.

    Returns what was written, which no other start has written.
    """
    adam = choose_adam(devices.current().current_device()).name
    settings = _settings(run) | {"content of the data": prepared.content}
    for flag, folder in (("--load", run.checkpoint.load), ("--save", run.checkpoint.save)):
        if folder is not None:
            there = _check_configuration(flag, Path(folder), settings)
            if flag == "--load" and there.get(_ADAM, adam) != adam:
                print(f"--load {folder} was trained with {there[_ADAM]} and goes on with {adam}", flush=True)
    text = json.dumps(settings | {_ADAM: adam, "start": uuid.uuid4().hex}, indent=1) + "\n"
    if run.checkpoint.save is not None:
        try:
            Path(run.checkpoint.save).mkdir(parents=True, exist_ok=True)
            write_atomically(Path(run.checkpoint.save) / CONFIGURATION, text)
        except OSError as error:
            raise Mistake(f"--save {run.checkpoint.save} cannot be written: {error.strerror}") from None
    return text


def check_shared(run: RunConfig, resumed: int | None, claimed: str, patience: float = 30.0) -> None:
    """`Mistake` if this process does not see in --load and --save what rank 0 does: nodes that do not share a folder.

    `resumed` is the iteration that rank 0 continues from, `claimed` what it has written with `claim`. A file system of
    a network may take a while to show what another node has written: `patience` seconds are waited.
    """
    save, load = run.checkpoint.save, run.checkpoint.load
    deadline = time.monotonic() + patience
    for flag, folder, seen in (
        ("--load", load, lambda: load is None or latest_iteration(Path(load)) == resumed),
        ("--save", save, lambda: save is None or _text(Path(save) / CONFIGURATION) == claimed),
    ):
        while not seen():
            if time.monotonic() > deadline:
                raise Mistake(
                    f"{flag} {folder} on {platform.node()} is not the folder that rank 0 has there: "
                    "all nodes need one folder of a file system that they share"
                )
            time.sleep(0.2)


def latest_iteration(folder: Path) -> int | None:
    """The iteration that the tracker file names; None without one."""
    tracker = folder / TRACKER
    if not tracker.is_file():
        return None
    text = tracker.read_text(encoding="utf-8").strip()
    if not text.isdecimal():
        raise Mistake(f"{tracker} holds {text!r}, not the number of an iteration")
    return int(text)


def checkpoint_path(folder: Path, iteration: int) -> Path:
    """The folder of one checkpoint."""
    return folder / f"iter_{iteration:07d}"


def write_atomically(path: Path, text: str) -> None:
    """Replace the file `path` so that a reader sees the old text or the new one."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _check_save(run: RunConfig, save: Path) -> None:
    if save.exists() and not save.is_dir():
        raise Mistake(f"--save {save} is a file, not a folder")
    if not save.is_dir():
        return
    there = sorted(entry.name for entry in save.iterdir() if entry.name != _DATA_CACHE)
    if there and CONFIGURATION not in there:
        raise Mistake(f"--save {save} is not empty ({there[0]}, ...) and is not from this trainer (no {CONFIGURATION})")
    _check_configuration("--save", save, _settings(run))
    iteration = latest_iteration(save)
    continues = run.checkpoint.load is not None and Path(run.checkpoint.load).resolve() == save.resolve()
    if iteration is not None and not continues:
        raise Mistake(
            f"--save {save} already holds iteration {iteration} of this configuration; "
            f"--load {save} continues it, another --save starts anew"
        )


def _check_configuration(flag: str, folder: Path, settings: dict[str, object]) -> dict[str, object]:
    """The configuration in `folder`, empty when there is none; `Mistake` if it differs in one of `settings`."""
    file = folder / CONFIGURATION
    if not file.is_file():
        return {}
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Mistake(f"{flag} {folder}: {file} is not JSON ({error})") from None
    there = _defaults() | there  # a folder from before a flag was there had what the flag's default means
    different = [
        f"{name} is {there.get(name)} there and {value} here{_FOLLOWS_FROM.get(name, '')}"
        for name, value in settings.items()
        if there.get(name) != value
    ]
    if different:
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise Mistake(f"{flag} {folder} belongs to another configuration: {different[0]}{more}")
    return there


def _settings(run: RunConfig) -> dict[str, object]:
    """The settings that decide what is trained, by flag; numbers that follow from several flags by name."""
    settings: dict[str, object] = {}
    for group, values in asdict(run).items():
        free = _FREE.get(group, set())
        if not isinstance(values, dict) or free is None:
            continue
        settings |= {_flag(name): value for name, value in values.items() if name not in free}
    settings |= {
        "--device": run.parallel.device or devices.current().name,
        "--global-batch-size": run.global_batch_size,
        "--lr-decay-iters": run.lr_decay_iters,
        "number of processes": run.world_size,
        "trainer": None if run.deepspeed is None else "DeepSpeed",
    }
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()
    }  # as JSON has it


def _defaults() -> dict[str, object]:
    """The default of every flag that has one."""
    groups = (each.type for each in fields(RunConfig))
    return {
        _flag(each.name): each.default
        for group in groups
        if is_dataclass(group)
        for each in fields(group)
        if each.default is not MISSING
    }


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")
