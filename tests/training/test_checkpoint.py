"""A save that was killed leaves a folder that counts for nothing, and the next save takes its place."""

import json

from ascendspeed.training.pretrain_gpt import main
from tests.training.test_pretrain_gpt import TINY


def losses(save) -> list[float]:
    return [r["loss"] for r in map(json.loads, (save / "history.jsonl").read_text().splitlines()) if "loss" in r]


def test_what_a_killed_save_left_is_neither_read_nor_in_the_way(tmp_path):
    cache = ["--data-cache-path", str(tmp_path / "cache")]
    whole, save = tmp_path / "whole", tmp_path / "save"
    main([*TINY, *cache, "--save", str(whole)])
    command = [*TINY, *cache, "--save", str(save), "--load", str(save)]
    main([*command, "--exit-interval", "3"])
    # As if the save after 6 iterations had been killed: its folder there, its name not in the tracker file.
    for name in ("iter_0000006.part", "iter_0000006"):
        (save / name).mkdir()
        (save / name / "__0_0.distcp").write_text("half")
    main(command)
    assert losses(save) == losses(whole)
    assert not (save / "iter_0000006.part").exists()
    assert (save / "latest_checkpointed_iteration.txt").read_text() == "6"
    assert (save / "iter_0000006" / "metadata.json").is_file()
