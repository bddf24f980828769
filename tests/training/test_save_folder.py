"""--save and --load: a folder is continued by the run it belongs to, refused to every other, and never overwritten."""

import dataclasses
import json
from pathlib import Path

import pytest

from ascendspeed import device
from ascendspeed.integrations import apex
from ascendspeed.training import configs, flags, save_folder
from ascendspeed.training.mistakes import Mistake
from ascendspeed.training.preprocess import Prepared
from ascendspeed.training.tokenizer import null
from tests.support.device import DEVICE
from tests.training.settings import SMALL

PREPARED = Prepared("p", null(10), "indices", "source", content="abc")


def run(*more: str):
    return flags.parse([*SMALL, *more], world_size=1)


def refusal(*more: str) -> str:
    with pytest.raises(Mistake) as caught:
        save_folder.look_at(run(*more))
    return str(caught.value)


def checkpointed(folder: Path, iteration: int) -> None:
    """A folder as a run leaves it, without the tensors."""
    save_folder.claim(run("--save", str(folder)), PREPARED)
    save_folder.checkpoint_path(folder, iteration).mkdir()
    (folder / save_folder.TRACKER).write_text(str(iteration))


def test_looking_writes_nothing(tmp_path):
    assert save_folder.look_at(run("--save", str(tmp_path / "new"))) is None
    assert not (tmp_path / "new").exists()


def test_the_latest_checkpoint_is_continued(tmp_path):
    checkpointed(tmp_path, 4)
    here = str(tmp_path)
    assert save_folder.look_at(run("--save", here, "--load", here)) == 4
    assert save_folder.look_at(run("--save", here, "--load", f"{here}/../{tmp_path.name}")) == 4


def test_checkpoints_that_would_not_be_continued_are_not_overwritten(tmp_path):
    checkpointed(tmp_path, 4)
    said = refusal("--save", str(tmp_path))
    assert "already holds iteration 4" in said
    assert f"--load {tmp_path} continues it" in said


def test_another_configuration_is_refused_by_its_first_difference(tmp_path):
    checkpointed(tmp_path, 4)
    here = str(tmp_path)
    for flag in ("--save", "--load"):
        said = refusal(flag, here, "--lr", "1e-3")
        assert said == f"{flag} {here} belongs to another configuration: --lr is 0.01 there and 0.001 here"
    assert "(and 1 more)" in refusal("--save", here, "--lr", "1e-3", "--seed", "7")
    assert "number of processes" not in refusal("--save", here)


def test_a_folder_from_before_a_flag_has_its_default(tmp_path):
    checkpointed(tmp_path, 4)
    file = tmp_path / save_folder.CONFIGURATION
    then = json.loads(file.read_text())
    for later in ("--window-size", "--prefix-lm", "--reset-attention-mask", "--rotary-percent"):
        del then[later]
    file.write_text(json.dumps(then))
    here = ["--save", str(tmp_path), "--load", str(tmp_path)]
    assert save_folder.look_at(run(*here)) == 4
    assert "--reset-attention-mask is False there and True here" in refusal(*here, "--reset-attention-mask")


def test_another_adam_is_said(tmp_path, monkeypatch, capsys):
    checkpointed(tmp_path, 4)
    again = run("--save", str(tmp_path), "--load", str(tmp_path))
    save_folder.claim(again, PREPARED)
    assert "was trained with" not in capsys.readouterr().out
    monkeypatch.setattr(save_folder, "choose_adam", lambda _: apex.Adam("another's", lambda: None, "installed"))
    save_folder.claim(again, PREPARED)
    assert f"--load {tmp_path} was trained with torch's fused AdamW and goes on with another's" in (
        capsys.readouterr().out
    )
    assert json.loads((tmp_path / save_folder.CONFIGURATION).read_text())["optimizer"] == "another's"


def test_lengths_reports_and_paths_are_free(tmp_path):
    checkpointed(tmp_path, 4)
    here = str(tmp_path)
    more = "--train-iters 12 --lr-decay-iters 6 --log-interval 5 --eval-iters 3 --save-interval 2 --exit-interval 9"
    assert save_folder.look_at(run("--save", here, "--load", here, *more.split(), "--data-path", "moved.txt")) == 4


def test_the_device_is_compared_by_what_it_is(tmp_path, monkeypatch):
    checkpointed(tmp_path, 4)
    here = str(tmp_path)
    unnamed = dataclasses.replace(run("--save", here, "--load", here), parallel=configs.ParallelConfig())
    monkeypatch.setattr(device, "current", lambda: device.Device(DEVICE))
    assert save_folder.look_at(unnamed) == 4
    monkeypatch.setattr(device, "current", lambda: device.Device("cuda"))
    with pytest.raises(Mistake, match=f"--device is {DEVICE} there and cuda here"):
        save_folder.look_at(unnamed)


def test_the_path_of_the_tokenizer_is_free(tmp_path):
    checkpointed(tmp_path, 4)  # no --tokenizer-model: PREPARED says what the content is
    here = ["--save", str(tmp_path), "--load", str(tmp_path)]
    moved = ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", "moved/tokenizer.json"]
    assert save_folder.look_at(run(*here, *moved)) == 4


def test_a_longer_training_is_told_which_flag_to_give(tmp_path):
    checkpointed(tmp_path, 4)
    said = refusal("--save", str(tmp_path), "--load", str(tmp_path), "--train-iters", "12")
    assert said.endswith("--lr-decay-iters is 6 there and 12 here (--train-iters unless given)")


def test_other_data_is_refused(tmp_path):
    checkpointed(tmp_path, 4)
    before = (tmp_path / save_folder.CONFIGURATION).read_text()
    other = Prepared("p", null(10), "indices", "source", content="xyz")
    with pytest.raises(Mistake, match="content of the data is abc there and xyz here"):
        save_folder.claim(run("--save", str(tmp_path), "--load", str(tmp_path)), other)
    assert (tmp_path / save_folder.CONFIGURATION).read_text() == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not empty (thesis.tex, ...)" in refusal("--save", str(tmp_path))
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_prepared_data_alone_does_not_make_a_folder_foreign(tmp_path):
    (tmp_path / "data-cache").mkdir()
    assert save_folder.look_at(run("--save", str(tmp_path))) is None


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder" in refusal("--save", str(tmp_path / "file"))


def test_loading_from_nowhere_starts_anew_unless_that_is_forbidden(tmp_path):
    nowhere = str(tmp_path / "nowhere")
    assert save_folder.look_at(run("--load", nowhere)) is None
    assert "has no latest_checkpointed" in refusal("--load", nowhere, "--exit-on-missing-checkpoint")


def test_a_tracker_that_does_not_fit_is_named(tmp_path):
    checkpointed(tmp_path, 4)
    here = str(tmp_path)
    (tmp_path / save_folder.TRACKER).write_text("5")
    assert "names iteration 5, but" in refusal("--load", here, "--save", here)
    (tmp_path / save_folder.TRACKER).write_text("release")
    assert "holds 'release'" in refusal("--load", here, "--save", here)
    (tmp_path / save_folder.CONFIGURATION).write_text("{")
    assert "is not JSON" in refusal("--load", here)


def test_the_configuration_is_written_once_the_data_is_known(tmp_path):
    save_folder.claim(run("--save", str(tmp_path / "a" / "b")), PREPARED)
    written = json.loads((tmp_path / "a" / "b" / save_folder.CONFIGURATION).read_text())
    assert written["content of the data"] == "abc"
    assert written["--lr"] == 0.01
    assert "--log-interval" not in written


def test_a_rank_that_sees_another_folder_is_told_which(tmp_path):
    (shared := tmp_path / "shared").mkdir()
    (other := tmp_path / "other").mkdir()
    claimed = save_folder.claim(run("--save", str(shared)), PREPARED)
    save_folder.claim(run("--save", str(other)), PREPARED)  # the same run, started on a node's own disk
    here, there = (run("--save", str(folder), "--load", str(folder)) for folder in (shared, other))
    save_folder.check_shared(here, None, claimed, patience=0)
    with pytest.raises(Mistake, match=f"--save {other} on .* is not the folder that rank 0 has there"):
        save_folder.check_shared(there, None, claimed, patience=0)
    with pytest.raises(Mistake, match=f"--load {shared} on .* all nodes need one folder"):
        save_folder.check_shared(here, 4, claimed, patience=0)
