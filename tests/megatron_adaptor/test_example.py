"""The documentation-style script: written for CUDA, runs on the device at hand because of one import."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "megatron_core_loop.py"
LINE = "import ascendspeed.megatron_adaptor  # noqa: F401  # isort: skip\n"


@pytest.mark.distributed
def test_it_learns_on_two_processes():
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*command, str(SCRIPT)], env=os.environ, cwd=SCRIPT.parents[1], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", result.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 1, losses  # from log(128) = 4.9 at the start


def test_without_the_line_it_needs_cuda(tmp_path):
    """What makes it run is that line: it is there once, and nothing else of ours."""
    source = SCRIPT.read_text()
    assert source.count(LINE) == 1
    assert "ascendspeed" not in source.replace(LINE, "").split('"""')[2]
    (tmp_path / "script.py").write_text(source.replace(LINE, ""))
    if sys.modules["torch"].cuda.is_available():
        pytest.skip("there is CUDA")
    with pytest.raises(SystemExit, match="needs CUDA"):
        runpy.run_path(str(tmp_path / "script.py"), run_name="__main__")
