"""`python -m ascendspeed.bench attention`: what it prints and writes, and what it says to a mistake."""

import json
from dataclasses import replace

import pytest
import torch

from ascendspeed.bench import extras, suite
from ascendspeed.bench.__main__ import main
from ascendspeed.bench.suite import NAMES, select


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["attention", *arguments])
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def test_cases_are_measured_printed_and_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "LENGTHS", (64, 128))
    json_file, picture = tmp_path / "a.json", tmp_path / "a.png"
    options = ["--rounds", "2", "--threads", "1", "--json", str(json_file), "--plot", str(picture)]
    main(["attention", "--cases", "tiny-bf16-1*", "lengths", *options])
    output = capsys.readouterr()
    tables = output.out.split("\n\n")
    assert tables[0].startswith("cpu ")
    assert [line.split(" | ")[0].strip("| ") for line in tables[1].splitlines()[2:]] == 2 * ["tiny-bf16-1"] + 2 * [
        "tiny-bf16-16"
    ]
    assert all(len(line) == len(tables[1].splitlines()[0]) for line in tables[1].splitlines())  # aligned
    assert "S=64 | S=128" in tables[2]
    assert "12 passes of 2 rounds" in output.err

    written = json.loads(json_file.read_text())
    assert set(written) == {"machine", "timings", "scaling", "lengths"}
    assert set(written["machine"]) == {"cpu", "isa", "torch", "threads"}
    assert written["machine"]["threads"] == 1
    for timing in written["timings"]:
        assert set(timing) == {"case", "direction", "seconds", "peaks", "ratio", "gflops", "share_of_peak"}
        assert {name: len(taken) for name, taken in timing["seconds"].items()} == {"torch": 2, "ours": 2}
    assert len(written["timings"]) == 4
    assert written["scaling"] == []
    assert len(written["lengths"]) == 8
    assert all(set(curve["relative_cost"]) == {"64", "128"} for curve in written["lengths"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_scaling_alone_is_written(tmp_path, monkeypatch):
    small = tuple(suite.scaled()[:1])
    monkeypatch.setattr(suite, "scaled", lambda: tuple(replace(case, length=64) for case in small))
    main(["attention", "--cases", "scaling", "--rounds", "1", "--threads", "2", "--json", str(tmp_path / "a.json")])
    (forward, both) = json.loads((tmp_path / "a.json").read_text())["scaling"]
    assert set(forward["seconds"]) == {"1", "2"}
    assert both["direction"] == "forward+backward"


def test_the_list_names_everything_and_measures_nothing(capsys):
    main(["attention", "--list"])
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]] == list(NAMES)


def test_names_and_patterns_select_in_the_order_of_the_table():
    torch.set_num_threads(2)
    assert select(["tiny-float32-1", "causal-bf16-*"]) == ["causal-bf16-2048", "causal-bf16-8192", "tiny-float32-1"]
    assert select(None) == list(NAMES)


def test_without_a_second_thread_scaling_is_left_out_aloud(capsys):
    torch.set_num_threads(1)
    assert "scaling" not in select(None)
    assert "scaling is left out: there is 1 thread" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "casual"], "--cases casual: there is no such case; --list names them all"),
        (["--cases", "scaling", "--threads", "1"], "--cases scaling compares 1 thread with all of them"),
        (["--rounds", "0"], "argument --rounds: 0 is not a whole number above 0"),
        (["--threads", "two"], "argument --threads: two is not a whole number above 0"),
        (["--budget", "-3"], "argument --budget: -3 is not a number of seconds above 0"),
        (["--json", "nowhere/a.json"], "--json nowhere/a.json: there is no folder"),
        (["--plot", "nowhere/a.png"], "--plot nowhere/a.png: there is no folder"),
        (["--plot", "a.xyz"], "--plot a.xyz: no picture format"),
        (["--cases", "scaling", "--threads", "2", "--plot", "a.png"], "--plot a.png: scaling has no picture"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(arguments, message, capsys):
    error = refused(capsys, *arguments)
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_a_library_that_is_missing_is_named_with_its_extra(capsys, monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    error = refused(capsys, "--cases", "tiny-bf16-1", "--plot", "a.png")
    assert error == ("error: --plot a.png needs matplotlib, which is not installed; pip install 'ascendspeed[train]'\n")
