"""scripts/test_avx512.sh says what it needs; it takes too long to be run here."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_packages_that_are_missing_are_named(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    command = [shutil.which("bash"), "scripts/test_avx512.sh"]
    result = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 2
    message = result.stderr.split()
    assert "test_avx512:" in message
    assert {"bochs", "xorriso", "cpio", "busybox-static"} <= set(message[message.index("install") :])
