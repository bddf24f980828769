"""Find what this node of several needs in its environment: its address and interface towards node 0, and the timeouts.

    python node.py [--dry-run] SECONDS

reads NODE_RANK, MASTER_ADDR, MASTER_PORT and SOCKET_IFNAME, and prints NAME=value lines: first NODE_ADDR, the address
under which the other nodes reach this one, then what is to be exported. What cannot work ends with one line and code 1.
With --dry-run, which may be on another machine than the job, that line is a comment and the timeouts are printed.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from ascendspeed.training.timeouts import hccl_limits

_SIOCGIFCONF = 0x8912
_INTERFACES = ("GLOO_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # no machine's address, by RFC 5737 and 3849


class Refused(Exception):
    """This node cannot take part; the message names the setting, its value, the rule and the remedy."""


def main(arguments: list[str]) -> int:
    dry, seconds = "--dry-run" in arguments, int(arguments[-1])
    try:
        lines = hccl_limits(seconds, os.environ)
    except ValueError as error:
        print(f"torchrun.sh: {error}", file=sys.stderr)
        return 1
    try:
        lines = network(os.environ, check_port=not dry) | lines
    except Refused as reason:
        if not dry:
            print(f"torchrun.sh: {reason}", file=sys.stderr)
            return 1
        print(f"torchrun.sh: not found here, and needed where it runs: {reason}", file=sys.stderr)
    for name, value in lines.items():
        print(f"{name}={value}")
    return 0


def network(environment: os._Environ[str] | dict[str, str], check_port: bool) -> dict[str, str]:
    """NODE_ADDR, and the interface for gloo, HCCL, NCCL and TensorPipe where the environment does not name one."""
    rank, host, port = int(environment["NODE_RANK"]), environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    family, master = _resolve(host, port)
    here = [entry for entry in interfaces() if entry[1] == family]
    wanted = environment.get("SOCKET_IFNAME", "")
    if rank == 0:
        _check_own(host, master, [entry[2] for entry in here])
        if check_port:
            _check_free(port, family)
    if wanted:
        address = _address_on("SOCKET_IFNAME", wanted, here, family)
    else:
        address = _towards(rank, host, master, family, here)
    interface = next(name for name, _, its in here if its == address)
    found = {"NODE_ADDR": address}
    for name in _INTERFACES:
        given = environment.get(name, "")
        if given:
            _check_named(name, given, here, family)
        found[name] = given or interface
    # The address wins over the name, so it may only say the same.
    if not environment.get("HCCL_SOCKET_IFNAME"):
        found["HCCL_IF_IP"] = environment.get("HCCL_IF_IP") or address
    if family == socket.AF_INET6:
        found["HCCL_SOCKET_FAMILY"] = environment.get("HCCL_SOCKET_FAMILY") or "AF_INET6"
    return found


def interfaces() -> list[tuple[str, int, str]]:
    """(name, family, address) of every address of this machine."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        buffer = array.array("B", bytes(64 * 1024))
        request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
        length = struct.unpack("iL", fcntl.ioctl(probe, _SIOCGIFCONF, request))[0]
    entry = 16 + struct.calcsize("PPi4x")  # struct ifreq: a name, then a union as large as struct ifmap
    for at in range(0, length, entry):
        name = bytes(buffer[at : at + 16]).split(b"\0")[0].decode().split(":")[0]  # eth0:1 is a second address of eth0
        found.append((name, int(socket.AF_INET), socket.inet_ntoa(bytes(buffer[at + 20 : at + 24]))))
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else []:
        words = line.split()
        if words[3] != "20":  # an address of the link alone needs its interface in every mention
            found.append((words[5], int(socket.AF_INET6), socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0]))))
    return found


def _resolve(host: str, port: int) -> tuple[int, str]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise Refused(
            f"MASTER_ADDR={host} does not resolve on this node ({error.strerror}): "
            "give node 0's address, or its name as this node knows it"
        ) from None
    return int(family), str(address[0])


def _towards(rank: int, host: str, master: str, family: int, here: list[tuple[str, int, str]]) -> str:
    """This node's address on the route to node 0; on node 0 itself, whose route to itself is no wire, MASTER_ADDR."""
    if rank == 0 and not _is_loopback(master):
        return master
    if rank > 0 and _is_loopback(master):
        raise Refused(f"MASTER_ADDR={host} ({master}) is this very machine, NODE_RANK={rank}: give node 0's address")
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[socket.AddressFamily(family)] if rank == 0 else master, 9))  # nothing is sent
            address = str(probe.getsockname()[0])
    except OSError as error:
        raise Refused(
            f"there is no route from this node to MASTER_ADDR={host} ({master}): {error.strerror}; "
            "correct the address or the route, or name the interface with SOCKET_IFNAME"
        ) from None
    if address not in [entry[2] for entry in here]:
        raise Refused(f"no interface here has {address}, the way to MASTER_ADDR={host}: set SOCKET_IFNAME")
    return address


def _check_own(host: str, master: str, addresses: list[str]) -> None:
    if not _is_loopback(master) and master not in addresses:
        own = ", ".join(address for address in addresses if not _is_loopback(address)) or "none"
        raise Refused(
            f"MASTER_ADDR={host} ({master}) is not this machine, which is NODE_RANK=0 and has {own}: "
            "give the address of node 0, or correct NODE_RANK"
        )


def _address_on(setting: str, interface: str, here: list[tuple[str, int, str]], family: int) -> str:
    kind = "IPv6" if family == socket.AF_INET6 else "IPv4"
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise Refused(f"{setting}={interface} is no interface of this node, which has {', '.join(names)}")
    for name, _, address in here:
        if name == interface:
            return address
    raise Refused(f"{setting}={interface} has no {kind} address, and MASTER_ADDR is {kind}: name another interface")


def _check_named(setting: str, given: str, here: list[tuple[str, int, str]], family: int) -> None:
    """Refuse a name that no interface has. gloo takes a name; HCCL and NCCL a list of prefixes, =exact or ^excluded."""
    if given.startswith("^"):
        return
    for word in given.split(","):
        exact = word.startswith("=") or setting in ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")
        word = word.removeprefix("=")
        names = [name for _, name in socket.if_nameindex() if (name == word if exact else name.startswith(word))]
        if not names:
            _address_on(setting, word, here, family)


def _check_free(port: int, family: int) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch binds: a port in TIME_WAIT is free
        try:
            probe.bind(("", port))
        except OSError as error:
            raise Refused(
                f"MASTER_PORT={port} cannot be opened on node 0 ({error.strerror}): "
                f"another job may have it (ss -ltnp 'sport = :{port}'), take another port on every node"
            ) from None


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
