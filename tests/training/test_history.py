"""The history keeps every digit, forgets what was never checkpointed, and draws what it holds."""

import json
import os

import pytest

from ascendspeed.training.history import History


def records(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_floats_survive_and_a_resume_drops_what_came_after(tmp_path):
    history = History(tmp_path, 0)
    for iteration in (1, 2, 3):
        history.add({"iteration": iteration, "loss": iteration / 3})
    history.add({"iteration": 2, "validation_loss": 0.1})
    history.add({"iteration": 3, "validation_loss": 0.2, "final": True})
    history.close()
    resumed = History(tmp_path, 2)
    resumed.add({"iteration": 3, "loss": 5.0})
    resumed.close()
    assert records(tmp_path) == [
        {"iteration": 1, "loss": 1 / 3},
        {"iteration": 2, "loss": 2 / 3},
        {"iteration": 2, "validation_loss": 0.1},
        {"iteration": 3, "loss": 5.0},
    ]


def test_a_resume_that_is_killed_while_it_shortens_the_file_loses_nothing(tmp_path, monkeypatch):
    history = History(tmp_path, 0)
    for iteration in (1, 2, 3):
        history.add({"iteration": iteration, "loss": 1.0})
    history.close()
    before = records(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        History(tmp_path, 2)
    assert records(tmp_path) == before


def test_a_new_run_starts_a_new_history(tmp_path):
    for _ in range(2):
        history = History(tmp_path, 0)
        history.add({"iteration": 1, "loss": 1.0})
        history.close()
    assert len(records(tmp_path)) == 1


def test_the_curve_is_a_picture_of_all_three(tmp_path):
    history = History(tmp_path, 0)
    history.add({"iteration": 1, "loss": 3.0})
    without = history.draw(None).read_bytes()
    assert without.startswith(b"\x89PNG")
    history.add({"iteration": 1, "validation_loss": 2.0})
    assert history.draw(5.0).read_bytes() != without
    history.close()
