"""The two phases of a call: executors, workspace, memory, the order of a stream, and that nothing is left behind."""

import re

import pytest

PHASES = {
    "an_executor_runs_once": [
        r"first 0 ",
        r"again 561103 aclnnFlashAttentionScore: executor: .*consumed.* \[561103\]",
        r"null 161001 .*executor is null \[161001\]",
    ],
    "a_repeatable_executor_runs_until_it_is_destroyed": [
        *("repeatable 0 ", "first 0 ", "again 0 ", "destroy 0 "),
        r"after 561103 .*",
        r"destroy again 561103 .*",
    ],
    "an_executor_belongs_to_its_call": [
        r"backward 561103 .*Grad: executor: made by the first phase of aclnnFlashAttentionScore .*",
        r"V2 561103 aclnnFlashAttentionScoreV2: .*",
        r"its own 0 ",
    ],
    "a_workspace_must_be_device_memory_of_that_size": [
        r"asks yes",
        r"null 161001 .*workspace is null.*",
        r"small 161002 .*workspaceSize=\d+ is below the \d+ bytes.*",
        r"host 361001 .*workspace: its \d+ bytes do not lie in one block of device memory.*",
        r"short 361001 .*workspace: its \d+ bytes do not lie in one block of device memory.*",
    ],
    "tensors_must_be_device_memory": [r"host query 361001 .*query: its 8192 bytes do not lie .*device memory.*"],
    "a_stream_must_be_alive": [r"destroyed 361001 .*stream: error 107017.*"],
    "calls_run_in_the_order_of_their_stream": ["before waiting, out untouched", "after dv sums to dy"],
}


@pytest.mark.parametrize("name", PHASES)
def test_what_the_phases_promise(programs, name):
    *lines, last = programs.run("two_phases", name).splitlines()
    assert last == "done"
    assert len(lines) == len(PHASES[name]), lines
    for line, pattern in zip(lines, PHASES[name], strict=True):
        assert re.fullmatch(pattern, line), line


def test_ten_thousand_calls_leave_nothing(programs):
    """A plan is more than 1 kB: 9,000 calls that lost it would take 9 MB of the host."""
    device, host, last = programs.run("two_phases", "ten_thousand_calls_leave_nothing").splitlines()
    assert last == "done"
    assert device == "device 0"
    assert int(host.removeprefix("host ")) < 1 << 20
