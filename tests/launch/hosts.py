"""A copy of the launch scripts that sets nothing up, and two hosts: network namespaces with a cable between them."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.examples.test_pretrain_gpt import ROOT, copy_of_the_scripts, environment

__all__ = ["ADDRESSES", "Cluster", "checkout", "clean", "two_hosts"]

# As texts, in the order of torch's own c10d, they are the other way round.
ADDRESSES = ("10.77.0.3", "10.77.0.20")
INTERFACES = ("wire0", "wire1")
_LAUNCHER = {"HOSTS", "HOSTFILE", "LAUNCH_SSH", "LAUNCH_ENV", "SOCKET_IFNAME", "HCCL_IF_IP", "HCCL_SOCKET_FAMILY"}
_LAUNCHER |= {f"{library}_SOCKET_IFNAME" for library in ("GLOO", "HCCL", "NCCL", "TP")}
_LAUNCHER |= {f"HCCL_{limit}_TIMEOUT" for limit in ("CONNECT", "EXEC", "EVENT")} | {"ACL_DEVICE_SYNC_TIMEOUT"}


def clean(**variables: object) -> dict[str, str]:
    """This process's environment with these variables and no other setting of a launcher."""
    return {name: value for name, value in environment().items() if name not in _LAUNCHER} | {
        name: str(value) for name, value in variables.items()
    }


def checkout(folder: Path) -> Path:
    """The launch scripts and the package, with an environment that is there already."""
    copy = copy_of_the_scripts(folder)
    (copy / "scripts" / "setup.sh").write_text(f"echo {shlex.quote(sys.executable)}\n")
    (copy / "ascendspeed").symlink_to(ROOT / "ascendspeed")
    return copy


class Cluster:
    """Two hosts, and how to reach them."""

    def __init__(self, folder: Path) -> None:
        self.names = tuple(f"as{os.getpid()}n{index}" for index in (0, 1))
        self.checkout = checkout(folder)
        # What ssh does with its arguments: the shell there reads them as one line.
        self.ssh = folder / "ssh"
        self.ssh.write_text('#!/usr/bin/env bash\nhost=$1\nshift\nexec ip netns exec "$host" sh -c "$*"\n')
        self.ssh.chmod(0o755)

    def on(self, host: int, *command: object) -> list[str]:
        """The command line that runs a command on one of the hosts."""
        return ["ip", "netns", "exec", self.names[host], *map(str, command)]

    def ip(self, host: int, *arguments: str) -> None:
        """Run ip on one of the hosts; skip the test where that cannot be done here."""
        _ip("-n", self.names[host], *arguments)

    def settings(self, **variables: object) -> dict[str, str]:
        """The environment for multi_node.sh."""
        fixed = {"HOSTS": " ".join(self.names), "MASTER_ADDR": ADDRESSES[0], "LAUNCH_SSH": self.ssh}
        threads = {"NPROC_PER_NODE": 1, "OMP_NUM_THREADS": 1, "RENDEZVOUS_SECONDS": 120}
        return clean(**(fixed | threads | variables))

    def multi_node(
        self, *arguments: str, timeout: float = 240, **variables: object
    ) -> subprocess.CompletedProcess[str]:
        """multi_node.sh with the example."""
        return subprocess.run(
            ["bash", "scripts/launch/multi_node.sh", "examples/pretrain_gpt.sh", *arguments],
            cwd=self.checkout,
            env=self.settings(**variables),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def processes(self, host: int) -> dict[int, str]:
        """The command line of every process of a host."""
        listed = subprocess.run(["ip", "netns", "pids", self.names[host]], capture_output=True, text=True).stdout
        found = {}
        for pid in map(int, listed.split()):
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
        return found


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"hosts of network namespaces cannot be made here: ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def two_hosts(folder: Path) -> Iterator[Cluster]:
    """The hosts, for as long as the context lasts; skips where network namespaces cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2")
    cluster = Cluster(folder)
    first, second = cluster.names
    try:
        commands = [
            f"netns add {first}",
            f"netns add {second}",
            f"link add {INTERFACES[0]} netns {first} type veth peer name {INTERFACES[1]} netns {second}",
        ]
        for name, interface, address in zip(cluster.names, INTERFACES, ADDRESSES, strict=True):
            commands += [f"-n {name} addr add {address}/24 dev {interface}"]
            commands += [f"-n {name} link set {device} up" for device in (interface, "lo")]
        for command in commands:
            _ip(*command.split())
        yield cluster
    finally:
        for host, name in enumerate(cluster.names):
            for pid in cluster.processes(host):
                os.kill(pid, 9)
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
