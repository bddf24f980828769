"""scripts/launch/multi_node.sh with hosts that are this machine: what travels, what comes back, how it ends."""

import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from tests.examples.test_pretrain_gpt import ROOT, value
from tests.launch.hosts import clean

SCRIPT = ROOT / "scripts" / "launch" / "multi_node.sh"


@pytest.fixture
def ssh(tmp_path: Path) -> Path:
    """Every host is this one; a host named `away` cannot be reached."""
    program = tmp_path / "ssh"
    program.write_text('#!/bin/sh\n[ "$1" != away ] || exit 255\nshift\nexec sh -c "$*"\n')
    program.chmod(0o755)
    return program


def launch(*arguments: object, cwd: Path = ROOT, **settings: object) -> subprocess.CompletedProcess[str]:
    command = ["bash", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=clean(**settings), capture_output=True, text=True, timeout=60)


def test_a_dry_run_prints_each_nodes_command_and_environment(ssh):
    done = launch(
        "examples/pretrain_gpt.sh",
        "--save",
        "a 'folder'",
        HOSTS="a b",
        MASTER_ADDR="node0.invalid",
        LAUNCH_SSH=ssh,
        NPROC_PER_NODE=4,
        DRY_RUN=1,
    )
    assert done.returncode == 0, done.stderr
    for rank, host in enumerate("ab"):
        lines = [line.removeprefix(f"[{host}] ") for line in done.stdout.splitlines() if line.startswith(f"[{host}] ")]
        words = shlex.split(next(line for line in lines if line.startswith("torchrun ")))
        assert value(words, "--rdzv-endpoint") == "node0.invalid:29500"
        assert value(words, "--rdzv-conf").startswith(f"node_rank={rank},")
        assert (value(words, "--nnodes"), value(words, "--nproc-per-node")) == ("2", "4")
        assert value(words, "--save") == "a 'folder'"
        assert "HCCL_EXEC_TIMEOUT=600" in lines


def test_a_host_file_and_further_variables(ssh, tmp_path):
    (tmp_path / "hosts").write_text("# the cluster\na slots=8\n\nb # the second\n")
    (tmp_path / "recipe.sh").write_text('echo "$NODE_RANK of $NNODES at $MASTER_ADDR, $WORD; $1"\n')
    settings = {"HOSTFILE": "hosts", "LAUNCH_SSH": f"env -u WORD {ssh}", "LAUNCH_ENV": "WORD", "WORD": "it's here"}
    done = launch("recipe.sh", "a  b", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    said = {"[a] 0 of 2 at a, it's here; a  b", "[b] 1 of 2 at a, it's here; a  b"}
    assert set(done.stdout.splitlines()) == said


def test_every_setting_of_the_launcher_and_the_recipes_travels(ssh, tmp_path):
    tables = re.split(r"^## ", (ROOT / "docs" / "environment.md").read_text(), flags=re.MULTILINE)
    launcher, recipes = (next(t for t in tables if t.startswith(head)) for head in ("The launcher", "Recipes"))
    names = set(re.findall(r"^\| `(\w+)` \|", launcher + recipes, re.MULTILINE))
    names -= {"HOSTS", "HOSTFILE", "LAUNCH_SSH", "LAUNCH_ENV"}  # multi_node.sh's own
    names -= {"NNODES", "NODE_RANK", "HCCL_IF_IP", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"}  # the node's own
    names |= {"HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT", "HCCL_EVENT_TIMEOUT", "ACL_DEVICE_SYNC_TIMEOUT"}
    assert {"TOKENIZER_PATH", "HCCL_SOCKET_IFNAME", "CPU_AFFINITY_CONF"} < names
    (tmp_path / "recipe.sh").write_text("env\n")
    forget = f"env {' '.join(f'-u {name}' for name in sorted(names))} {ssh}"  # a shell over ssh has none of them
    done = launch("recipe.sh", cwd=tmp_path, HOSTS="a", LAUNCH_SSH=forget, **{name: f"its {name}" for name in names})
    assert done.returncode == 0, done.stderr
    assert {name for name in names if f"[a] {name}=its {name}" not in done.stdout.splitlines()} == set()


@pytest.mark.slow
def test_the_first_failure_is_the_status_and_ends_the_others(ssh, tmp_path):
    (tmp_path / "recipe.sh").write_text("[[ $NODE_RANK == 1 ]] && exit 7\ntrap 'exit 9' TERM\nsleep 300 & wait\n")
    started = time.monotonic()
    done = launch("recipe.sh", cwd=tmp_path, HOSTS="a b", LAUNCH_SSH=ssh)
    assert done.returncode == 7
    assert "b (node 1) ended with status 7: ending the job on all nodes" in done.stderr
    assert time.monotonic() - started < 50  # not the 300 s of the other


def test_a_node_that_blames_another_is_not_the_first_failure(ssh, tmp_path):
    # Node 0 is seen first, by a second: what counts is who is to blame.
    (tmp_path / "recipe.sh").write_text("[[ $NODE_RANK == 0 ]] && exit 75\nsleep 1\nexit 7\n")
    done = launch("recipe.sh", cwd=tmp_path, HOSTS="a b", LAUNCH_SSH=ssh)
    assert done.returncode == 7
    assert done.stderr.splitlines()[-1].startswith("multi_node.sh: b (node 1) ended with status 7")


def test_the_status_is_75_if_no_node_ended_of_its_own(ssh, tmp_path):
    (tmp_path / "recipe.sh").write_text("exit $((NODE_RANK ? 0 : 75))\n")
    assert launch("recipe.sh", cwd=tmp_path, HOSTS="a b", LAUNCH_SSH=ssh).returncode == 75
    assert "\nBLAMES_ANOTHER = 75 " in (SCRIPT.parent / "by_node_rank.py").read_text()


def test_the_master_is_the_first_host_without_its_user(ssh, tmp_path):
    (tmp_path / "recipe.sh").write_text("echo $MASTER_ADDR\n")
    done = launch("recipe.sh", cwd=tmp_path, HOSTS="me@a", LAUNCH_SSH=ssh)
    assert done.stdout == "[me@a] a\n"


def test_a_host_that_cannot_be_reached(ssh, tmp_path):
    (tmp_path / "recipe.sh").write_text("exit 0\n")
    done = launch("recipe.sh", cwd=tmp_path, HOSTS="a away", LAUNCH_SSH=ssh)
    assert done.returncode == 255
    assert "away (node 1) ended with status 255" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ([], {"HOSTS": "a"}, "give the recipe"),
        (["examples/nothing.sh"], {"HOSTS": "a"}, "examples/nothing.sh is no file in"),
        (["examples/pretrain_gpt.sh"], {}, 'HOSTS="node0 node1" or HOSTFILE must name the nodes'),
        (["examples/pretrain_gpt.sh"], {"HOSTS": "a", "HOSTFILE": "b"}, "both set"),
        (["examples/pretrain_gpt.sh"], {"HOSTFILE": "nowhere"}, "HOSTFILE=nowhere cannot be read"),
        (["examples/pretrain_gpt.sh"], {"HOSTS": "a b a"}, "the host a is named twice"),
        (["examples/pretrain_gpt.sh"], {"HOSTS": "a b", "NNODES": 3}, "NNODES=3, but there are 2 hosts"),
    ],
)
def test_a_wrong_list_is_refused(arguments, settings, words):
    done = launch(*arguments, **settings)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("multi_node.sh: ")
    assert words in line
