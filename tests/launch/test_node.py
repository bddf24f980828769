"""scripts/launch/node.py: what a node finds on the way to node 0, and what it refuses by name."""

import socket
import subprocess
import sys

import pytest

from tests.examples.test_pretrain_gpt import ROOT
from tests.launch.hosts import ADDRESSES, INTERFACES, clean, two_hosts

SCRIPT = ROOT / "scripts" / "launch" / "node.py"


def node(*arguments: str, before: list[str] | None = None, **variables: object) -> subprocess.CompletedProcess[str]:
    """node.py with a limit of 600 s, on a host of its own if `before` leads there."""
    command = [*(before or []), sys.executable, str(SCRIPT), *arguments, "600"]
    settings = {"NODE_RANK": 0, "MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": 29500} | variables
    return subprocess.run(command, env=clean(**settings), capture_output=True, text=True, timeout=60)


def refusal(*arguments: str, before: list[str] | None = None, **variables: object) -> str:
    done = node(*arguments, before=before, **variables)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("torchrun.sh: ")
    return line


def found(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("rank", [0, 1])
def test_the_interface_is_that_of_the_route_to_the_master(cluster, rank):
    values = found(node(before=cluster.on(rank), NODE_RANK=rank))
    assert values == {
        "NODE_ADDR": ADDRESSES[rank],
        "GLOO_SOCKET_IFNAME": INTERFACES[rank],
        "HCCL_SOCKET_IFNAME": INTERFACES[rank],
        "NCCL_SOCKET_IFNAME": INTERFACES[rank],
        "TP_SOCKET_IFNAME": INTERFACES[rank],
        "HCCL_IF_IP": ADDRESSES[rank],
        "HCCL_CONNECT_TIMEOUT": "600",
        "HCCL_EXEC_TIMEOUT": "600",
        "HCCL_EVENT_TIMEOUT": "620",
        "ACL_DEVICE_SYNC_TIMEOUT": "640",
    }


def test_what_is_named_stays():
    values = found(node(SOCKET_IFNAME="lo", NODE_RANK=0, MASTER_ADDR="127.0.0.1", HCCL_SOCKET_IFNAME="=lo"))
    assert (values["GLOO_SOCKET_IFNAME"], values["HCCL_SOCKET_IFNAME"]) == ("lo", "=lo")
    assert "HCCL_IF_IP" not in values  # it would win over the name


def test_an_ipv6_master_is_reached_over_ipv6(cluster):
    for rank, interface in enumerate(INTERFACES):
        cluster.ip(rank, "-6", "addr", "replace", f"fd77::{rank + 1}/64", "dev", interface, "nodad")
    values = found(node(before=cluster.on(1), NODE_RANK=1, MASTER_ADDR="fd77::1"))
    assert (values["NODE_ADDR"], values["GLOO_SOCKET_IFNAME"]) == ("fd77::2", INTERFACES[1])
    assert (values["HCCL_IF_IP"], values["HCCL_SOCKET_FAMILY"]) == ("fd77::2", "AF_INET6")


@pytest.mark.parametrize("name", ["SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME"])
def test_an_interface_that_does_not_exist(cluster, name):
    line = refusal(before=cluster.on(1), NODE_RANK=1, **{name: "eth7"})
    assert f"{name}=eth7 is no interface of this node, which has lo, {INTERFACES[1]}" in line


def test_an_interface_without_an_address_of_the_masters_family(cluster):
    cluster.ip(1, "link", "add", "bare", "type", "veth")
    line = refusal(before=cluster.on(1), NODE_RANK=1, SOCKET_IFNAME="bare")
    assert "SOCKET_IFNAME=bare has no IPv4 address, and MASTER_ADDR is IPv4" in line


def test_hosts_that_cannot_be_made_are_a_skip_with_the_reason(tmp_path, monkeypatch):
    ip = tmp_path / "ip"  # a container where namespaces can be made, but no cable
    ip.write_text('#!/bin/sh\nif [ "$1" = link ]; then echo "RTNETLINK: not permitted" >&2; exit 2; fi\n')
    ip.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(pytest.skip.Exception, match=r"ip link add .*: RTNETLINK: not permitted"), two_hosts(tmp_path):
        pass


def test_a_master_that_does_not_resolve():
    line = refusal(NODE_RANK=1, MASTER_ADDR="node0.invalid")
    assert "MASTER_ADDR=node0.invalid does not resolve on this node" in line


def test_a_master_without_a_route(cluster):
    line = refusal(before=cluster.on(1), NODE_RANK=1, MASTER_ADDR="10.99.0.1")
    assert "no route from this node to MASTER_ADDR=10.99.0.1" in line
    assert "SOCKET_IFNAME" in line


def test_a_master_that_is_another_machine_than_node_0(cluster):
    line = refusal(before=cluster.on(0), MASTER_ADDR=ADDRESSES[1])
    assert f"MASTER_ADDR={ADDRESSES[1]} ({ADDRESSES[1]}) is not this machine, which is NODE_RANK=0" in line
    assert ADDRESSES[0] in line


def test_a_master_that_is_the_wrong_node_itself():
    assert "MASTER_ADDR=localhost (127.0.0.1) is this very machine" in refusal(
        NODE_RANK=1, MASTER_ADDR="localhost"
    ) or ("MASTER_ADDR=localhost (::1) is this very machine" in refusal(NODE_RANK=1, MASTER_ADDR="localhost"))


def test_a_port_in_use():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = {"MASTER_ADDR": "127.0.0.1", "SOCKET_IFNAME": "lo", "MASTER_PORT": port}
        line = refusal(**settings)
        assert f"MASTER_PORT={port} cannot be opened on node 0 (Address already in use)" in line
        assert "another port" in line
        assert found(node("--dry-run", **settings))["NODE_ADDR"] == "127.0.0.1"  # nothing is opened


def test_a_dry_run_elsewhere_says_what_it_could_not_find():
    done = node("--dry-run", MASTER_ADDR="node0.invalid")
    assert "node0.invalid" in done.stderr
    assert list(found(done)) == [
        "HCCL_CONNECT_TIMEOUT",
        "HCCL_EXEC_TIMEOUT",
        "HCCL_EVENT_TIMEOUT",
        "ACL_DEVICE_SYNC_TIMEOUT",
    ]


def test_limits_that_contradict_each_other():
    assert "HCCL_EVENT_TIMEOUT=30 must be above HCCL_EXEC_TIMEOUT=600" in refusal(HCCL_EVENT_TIMEOUT=30)
