"""libascendcl.so: each case of programs/runtime_*.cpp in a process of its own, and what a process cannot say itself."""

import ctypes
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hostcann.conftest import CLEAN, PROGRAMS, ROOT, Compile, run_program

STREAMS = PROGRAMS / "runtime_streams.cpp"
MEMORY = PROGRAMS / "runtime_memory.cpp"
DEVICES = PROGRAMS / "runtime_devices.cpp"
# Cases that need something of the environment have a test of their own below.
OWN = {
    "a_configuration_file_is_read_and_what_is_lacking_refused",
    "memory_is_counted_against_each_device",
    "the_process_ends_with_work_on_its_streams",
    "what_the_environment_says_is_the_machine",
}
CASES = [
    (source, name)
    for source in (STREAMS, PROGRAMS / "runtime_events.cpp", MEMORY, DEVICES)
    for name in re.findall(r"^CASE\((\w+)\)", source.read_text(), re.MULTILINE)
    if name not in OWN
]
REFUSED = re.findall(r"^REFUSED\((\w+)", (ROOT / "csrc" / "hostcann" / "acl" / "refused.cpp").read_text(), re.MULTILINE)
SYMBOLS = (Path(__file__).parent / "torch_npu_symbols.txt").read_text().split()
# torch_npu finds the same symbols in several of CANN's libraries.
LIBRARIES = ["ascendcl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel", "nnopbase"]


def run_case(compile_program: Compile, source: Path, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
    result = run_program(compile_program(source, "ascendcl", own=True), name, **variables)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("done\n")
    return result


@pytest.mark.parametrize(("source", "name"), CASES, ids=[name for _, name in CASES])
def test_case(compile_program: Compile, source: Path, name: str):
    assert run_case(compile_program, source, name).stderr == ""


def test_memory_is_counted_against_each_device(compile_program: Compile):
    name = "memory_is_counted_against_each_device"
    run_case(compile_program, MEMORY, name, ASCENDSPEED_HOSTCANN_MEMORY="4096")


def test_a_configuration_file_is_read_and_what_is_lacking_refused(compile_program: Compile, tmp_path: Path):
    (tmp_path / "acl.json").write_text('{"err_msg_mode": "1"}')
    (tmp_path / "acl.json.dump").write_text('{"dump": {"dump_path": "/tmp"}}')
    name = "a_configuration_file_is_read_and_what_is_lacking_refused"
    run_case(compile_program, DEVICES, name, CONFIGURATION=str(tmp_path / "acl.json"))


def test_the_process_ends_with_work_on_its_streams(compile_program: Compile):
    """One stream waits for ever and has work behind it; the process ends at once and drops it."""
    compile_program(STREAMS, "ascendcl", own=True)
    start = time.monotonic()
    result = run_case(compile_program, STREAMS, "the_process_ends_with_work_on_its_streams")
    assert time.monotonic() - start < 4  # the limit for work that does not end is 5 s
    assert "ran" not in result.stderr


MACHINE = "what_the_environment_says_is_the_machine"


@pytest.mark.parametrize(
    ("soc", "supported"),
    [
        ("Ascend910B1", True),
        ("Ascend910B4-1", True),
        ("Ascend910_9382", True),
        ("Ascend950PR_9589", True),
        ("Ascend950DT_9581", True),
        ("Ascend910B", False),
        ("Ascend910Best", False),
        ("Ascend910A", False),
        ("Ascend910ProB", False),
        ("Ascend310P3", False),
        ("Ascend310B1", False),
        ("", False),
    ],
)
def test_the_chip_is_one_that_runs_the_operators(compile_program: Compile, soc: str, supported: bool):
    """Section 9 of the operator's specification: the Atlas A2 and A3 series and the 950, not 310P, 200I/500 or 910."""
    expected = "0" if supported else "507008"
    result = run_case(compile_program, DEVICES, MACHINE, ASCENDSPEED_HOSTCANN_SOC=soc, EXPECTED=expected)
    assert f"soc {soc if supported else 'null'}\n" in result.stdout
    assert ("is not a product that runs the operators" in result.stdout) is not supported


@pytest.mark.parametrize("value", ["0", "65", "-1", "two", "2 ", ""])
def test_a_number_of_devices_that_cannot_be_is_refused(compile_program: Compile, value: str):
    result = run_case(compile_program, DEVICES, MACHINE, ASCENDSPEED_HOSTCANN_DEVICES=value, EXPECTED="100000")
    assert f"ASCENDSPEED_HOSTCANN_DEVICES={value} must be a whole number from 1 to 64" in result.stdout
    assert "devices 0\n" in result.stdout


def test_the_number_of_devices_is_the_variable(compile_program: Compile):
    assert "devices 8\n" in run_case(compile_program, DEVICES, MACHINE, EXPECTED="0").stdout
    result = run_case(compile_program, DEVICES, MACHINE, ASCENDSPEED_HOSTCANN_DEVICES="3", EXPECTED="0")
    assert "devices 3\n" in result.stdout


def test_memory_that_cannot_be_is_refused(compile_program: Compile):
    result = run_case(compile_program, DEVICES, MACHINE, ASCENDSPEED_HOSTCANN_MEMORY="64G", EXPECTED="100000")
    assert "ASCENDSPEED_HOSTCANN_MEMORY=64G must be a whole number" in result.stdout


# A machine with a card, as far as the library can see: the search for device nodes answers that there is one.
CARD = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glob.h>
#include <string.h>
typedef int (*search)(const char *, int, int (*)(const char *, int), glob_t *);
int glob(const char *pattern, int flags, int (*error)(const char *, int), glob_t *found) {
  if (strcmp(pattern, "/dev/davinci*") == 0) pattern = "/dev/null";
  return ((search)dlsym(RTLD_NEXT, "glob"))(pattern, flags, error, found);
}
"""


def test_beside_the_driver_of_a_real_card_it_refuses_to_work(compile_program: Compile, tmp_path: Path):
    (tmp_path / "card.c").write_text(CARD)
    subprocess.run(
        ["g++", "-x", "c", "-shared", "-fPIC", tmp_path / "card.c", "-o", tmp_path / "card.so", "-ldl"], check=True
    )
    result = run_case(compile_program, DEVICES, MACHINE, LD_PRELOAD=str(tmp_path / "card.so"), EXPECTED="200006")
    assert "host CANN does not work where the driver of a real card is (/dev/null)" in result.stdout
    assert "devices 0\n" in result.stdout
    assert "[host CANN] aclInit: host CANN does not work" in result.stderr


def test_every_symbol_that_torch_npu_is_linked_against_is_there(libraries: Path):
    assert len(SYMBOLS) == 84
    for library in LIBRARIES:
        handle = ctypes.CDLL(str(libraries / f"lib{library}.so"))
        missing = [name for name in SYMBOLS if not hasattr(handle, name)]
        assert missing == [], library


CALL = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.aclGetRecentErrMsg.restype = ctypes.c_char_p
output = ctypes.c_uint64(77)
for name in sys.argv[2:]:
    for _ in range(2):
        assert getattr(library, name)(*[None] * 8) == 207000, name
        message = library.aclGetRecentErrMsg().decode()
        assert message == f"{name} is not implemented by host CANN [207000]", message
pointer = ctypes.byref(output)
assert library.aclrtReserveMemAddress(pointer, 4096, 0, None, 0) == 207000
assert output.value == 0
assert library.aclopCompileAndExecute(b"FastGelu", *[None] * 11) == 207000
assert "FastGelu" in library.aclGetRecentErrMsg().decode()
"""


def test_what_is_lacking_refuses_by_name(libraries: Path):
    """Each returns 207000, says so once on standard error and every time to the caller."""
    assert len(REFUSED) == 20
    result = subprocess.run(
        [sys.executable, "-c", CALL, libraries / "libascendcl.so", *REFUSED],
        env=CLEAN,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    said = [f"[host CANN] {name} is not implemented by host CANN" for name in REFUSED]
    said.append("[host CANN] aclopCompileAndExecute of FastGelu is not implemented by host CANN")
    assert result.stderr.splitlines() == said


def test_the_headers_are_c(libraries: Path, tmp_path: Path):
    (tmp_path / "program.c").write_text(
        '#include "acl/acl.h"\nint main(void) { return aclInit(0) || aclFinalize(); }\n'
    )
    include = ROOT / "csrc" / "hostcann" / "include"
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable", f"-I{include}"]
    command += [tmp_path / "program.c", "-o", tmp_path / "program"]
    command += [f"-L{libraries}", "-lascendcl", f"-Wl,-rpath,{libraries}"]
    subprocess.run(command, check=True)
    assert run_program(tmp_path / "program").returncode == 0


def test_nothing_but_the_interface_is_exported(libraries: Path):
    listing = subprocess.run(
        ["nm", "-DC", "--defined-only", libraries / "libascendcl.so"], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
    own = {name.partition("(")[0] for name in names if name.startswith("hostcann::")}
    contract = "".join((ROOT / "csrc" / "hostcann" / "acl" / name).read_text() for name in ("stream.h", "fault.h"))
    assert own == {
        f"hostcann::{name}" for name in re.findall(r"^ACL_FUNC_VISIBILITY [\w:<>]+ (\w+)\(", contract, re.MULTILINE)
    }
    assert [
        name for name in names if not re.match(r"acl[A-Z]|acl(rt|op|mdl)[A-Z]|rt[A-Z]|Msprof|hostcann::", name)
    ] == []


@pytest.mark.parametrize("tool", ["cmake", "g++", "make"])
def test_a_build_without_its_tools_says_which_is_missing(tool: str, tmp_path: Path):
    for name in {"bash", "dirname", "mkdir", "cmake", "g++", "make"} - {tool}:
        (tmp_path / name).symlink_to("/bin/true" if name in ("cmake", "g++", "make") else f"/bin/{name}")
    result = subprocess.run(
        [tmp_path / "bash", ROOT / "scripts" / "build_hostcann.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert re.search(rf"build_hostcann: .*{re.escape(tool)} is not there: apt-get install", result.stderr)
    assert result.stdout == ""
