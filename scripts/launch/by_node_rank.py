"""torch's c10d rendezvous, with the nodes in the order of NODE_RANK and a word about those that do not come.

c10d alone numbers nodes by their addresses as text, so that 10.0.0.10 comes before 10.0.0.2. Here node k is the one
that was started as NODE_RANK=k, at the start and after every restart: the same rank computes on the same node, and the
log of rank 0 is on node 0.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from torch.distributed import PrefixStore, Store
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousError,
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler
from torch.distributed.elastic.rendezvous.utils import parse_rendezvous_endpoint

__all__ = ["BACKEND", "BLAMES_ANOTHER", "ByNodeRank", "Refused", "register"]

BACKEND = "by-node-rank"
BLAMES_ANOTHER = 75  # exit status of a node that ends because of another; multi_node.sh looks for that one's
# Seconds that node 0, which holds the store, waits for the others to leave: after a failure, and after a good end.
_CLOSING, _FINISHING = 10.0, 86400.0


class Refused(RendezvousError):
    """The job cannot go on; the message is for the user. `code` is the exit status of this node."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def register(settings: dict[str, str], mistake: Path, before_attempt: Callable[[], None]) -> None:
    """Make BACKEND known to torchrun. `settings` must be equal on all nodes; `mistake` is where a rank leaves word."""
    rendezvous_handler_registry.register(
        BACKEND, lambda parameters: _create(parameters, settings, mistake, before_attempt)
    )


def _create(
    parameters: RendezvousParameters, settings: dict[str, str], mistake: Path, before_attempt: Callable[[], None]
) -> "ByNodeRank":
    # The processes meet in a store of their own for each attempt, so that none reads what an earlier attempt wrote.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    rank, seconds = int(parameters.get("node_rank", "0")), int(parameters.get("join_timeout", "600"))
    if rank > 0:
        _wait_for_the_master(parameters.endpoint, seconds)
    try:
        backend, store = create_backend(parameters)
    except RendezvousError as error:
        raise Refused(f"the rendezvous at {parameters.endpoint} cannot be opened: {error.__cause__ or error}") from None
    inner = create_handler(store, backend, parameters)
    return ByNodeRank(inner, store, parameters, rank, settings, mistake, before_attempt)


def _wait_for_the_master(endpoint: str, seconds: int) -> None:
    host, port = parse_rendezvous_endpoint(endpoint, default_port=29500)
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            socket.create_connection((host, port), timeout=max(left, 0.1)).close()
            return
        except OSError as error:
            if left <= 1:
                raise Refused(
                    f"node 0 did not answer at MASTER_ADDR={host} MASTER_PORT={port} within {seconds} s "
                    f"({error.strerror or error}): is it running, is the address right, is the port open?"
                ) from None
        time.sleep(1)


def _lost(error: Exception) -> Refused:
    return Refused(f"lost the connection to node 0 ({error}); its output says why", code=BLAMES_ANOTHER)


class ByNodeRank(RendezvousHandler):
    """The handler of one node."""

    def __init__(
        self,
        inner: RendezvousHandler,
        store: Store,
        parameters: RendezvousParameters,
        rank: int,
        settings: dict[str, str],
        mistake: Path,
        before_attempt: Callable[[], None],
    ) -> None:
        self._inner, self._rank, self._nodes, self._settings = inner, rank, parameters.max_nodes, settings
        self._mistake, self._before_attempt = mistake, before_attempt
        self._seconds = int(parameters.get("join_timeout", "600"))
        self._address = parameters.local_addr or socket.getfqdn()
        self._store = PrefixStore(f"nodes of {parameters.run_id}", store)

    def next_rendezvous(self) -> RendezvousInfo:
        """Meet the other nodes. `Refused` if they do not come, are others than expected, or have ended the job."""
        if self._mistake.exists():
            raise Refused("", code=int(self._mistake.read_text()))  # it has been told, and would be the same again
        self._before_attempt()
        try:
            self._compare_settings()
            self._store.set(f"waiting {self._rank}", self._address)
            info = self._inner.next_rendezvous()
            self._store.delete_key(f"waiting {self._rank}")
            return self._in_order(info)
        except Refused as reason:
            with contextlib.suppress(dist.DistError, RendezvousError):  # node 0 may have gone already
                self._store.set("reason", f"node {self._rank}: {reason}")
                self._inner.set_closed()
            raise
        except RendezvousTimeoutError:
            reason = self._who_is_missing()
            with contextlib.suppress(dist.DistError):
                self._store.set("reason", reason)
            raise Refused(reason) from None
        except RendezvousClosedError:
            raise self._over() from None
        except (RendezvousError, dist.DistError) as error:
            raise _lost(error) from None

    def _compare_settings(self) -> None:
        if self._rank == 0:
            self._store.set("settings", json.dumps(self._settings))
            return
        first = json.loads(self._store.get("settings"))
        for name, value in self._settings.items():
            if first[name] != value:
                raise Refused(f"{name}={value} here and {first[name]} on node 0: it must be the same on all nodes")

    def _in_order(self, info: RendezvousInfo) -> RendezvousInfo:
        """The same meeting with NODE_RANK instead of the rank that torch gave."""
        info.store.set(f"node {info.rank}", f"{self._rank} {self._address}")
        taken: dict[int, str] = {}
        for other in range(info.world_size):
            rank, address = info.store.get(f"node {other}").decode().split()
            if int(rank) in taken:
                raise Refused(
                    f"NODE_RANK={rank} is set on {taken[int(rank)]} and on {address}: each node needs its own"
                )
            taken[int(rank)] = address
        own = PrefixStore("by node rank", info.store)
        master = RendezvousStoreInfo.build(self._rank, own, local_addr=self._address)
        return RendezvousInfo(info.store, self._rank, info.world_size, master)

    def _who_is_missing(self) -> str:
        try:
            missing = [rank for rank in range(self._nodes) if not self._store.check([f"waiting {rank}"])]
        except dist.DistError:
            missing = []
        came = f"of NNODES={self._nodes} nodes {self._nodes - len(missing)} came within {self._seconds} s"
        return f"{came}; missing NODE_RANK {', '.join(map(str, missing))}: start them, or correct NNODES on every node"

    def _over(self) -> Refused:
        with contextlib.suppress(dist.DistError):
            if self._store.check(["reason"]):
                return Refused(self._store.get("reason").decode())
        return Refused("another node has ended the job; its output says why", code=BLAMES_ANOTHER)

    def num_nodes_waiting(self) -> int:
        """Nodes that want to join, for which torchrun meets again; so it does, and learns the reason, after the end.

        Not after a good end: a node that is done does not wait for ever, and the others go on to theirs.
        """
        try:
            if self._inner.is_closed():
                return 0 if self._store.check(["finished"]) else 1
            return self._inner.num_nodes_waiting()
        except (RendezvousError, dist.DistError) as error:
            raise _lost(error) from None

    def shutdown(self) -> bool:
        """End the job for all nodes. Node 0 goes last."""
        finished = sys.exc_info()[0] is None  # torchrun calls this with the failure, if there is one, on its way
        try:
            if finished:
                self._store.set("finished", "yes")
            done = self._inner.shutdown()
            self._store.add("left", 1)
            deadline = time.monotonic() + (_FINISHING if finished else _CLOSING)
            while self._rank == 0 and time.monotonic() < deadline and self._store.add("left", 0) < self._nodes:
                time.sleep(0.1)
        except dist.DistError:
            return False  # node 0 has gone
        return done

    def get_backend(self) -> str:
        return BACKEND

    def is_closed(self) -> bool:
        return self._inner.is_closed()

    def set_closed(self) -> None:
        self._inner.set_closed()

    def get_run_id(self) -> str:
        return self._inner.get_run_id()
