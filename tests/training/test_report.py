"""The log on a pipe has no bar, on a terminal it has one, and other ranks say nothing."""

import os
import pty
import subprocess
import sys

from tests.training.test_pretrain_gpt import TINY


def shown_on_a_terminal(command: list[str]) -> str:
    """What `command` writes when its output is a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed
                break
            if not read:
                break
            text += read
        assert process.wait() == 0
    os.close(ours)
    return text.decode()


def test_a_terminal_gets_a_progress_bar_and_whole_lines(tmp_path):
    command = [sys.executable, "-m", "ascendspeed.training.pretrain_gpt", *TINY, "--data-cache-path", str(tmp_path)]
    shown = shown_on_a_terminal(command)
    assert "6/6" in shown
    assert "it/s" in shown or "s/it" in shown
    lines = [line.rstrip("\r").split("\r")[-1] for line in shown.split("\n")]
    assert sum("| grad norm" in line for line in lines) == 6
    piped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "it/s" not in piped
    assert piped.count("| grad norm") == 6
