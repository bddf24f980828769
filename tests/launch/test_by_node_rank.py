"""scripts/launch/by_node_rank.py on one store: what a node is told once another has ended, well or badly."""

import importlib.util
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousParameters

from tests.examples.test_pretrain_gpt import ROOT

_spec = importlib.util.spec_from_file_location("by_node_rank", ROOT / "scripts" / "launch" / "by_node_rank.py")
by_node_rank = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(by_node_rank)


class Inner:
    """torch's handler, as far as it is asked: one state for all nodes."""

    closed: bool

    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def set_closed(self) -> None:
        self.closed = True

    def shutdown(self) -> bool:
        self.closed = True
        return True

    def num_nodes_waiting(self) -> int:
        return 0

    def next_rendezvous(self):
        raise RendezvousClosedError


class Lost:
    """A store whose node has gone; torch's own stores raise the same."""

    def __getattr__(self, name: str):
        def fail(*arguments):
            raise dist.DistNetworkError("node 0 has gone")

        return fail


@pytest.fixture
def nodes(tmp_path: Path):
    store, inner = dist.HashStore(), Inner()
    parameters = RendezvousParameters("c10d", "localhost:1", "test", min_nodes=2, max_nodes=2, local_addr="here")
    return [
        by_node_rank.ByNodeRank(inner, store, parameters, rank, {}, tmp_path / "mistake", lambda: None)
        for rank in (0, 1)
    ]


def test_a_node_that_is_done_leaves_the_others_their_work(nodes):
    assert nodes[0].num_nodes_waiting() == 0
    nodes[1].shutdown()
    assert nodes[0].num_nodes_waiting() == 0  # 1 would start its healthy processes again


def _fail(node) -> None:
    """As torchrun does it."""
    try:
        raise ValueError("failed")
    finally:
        node.shutdown()


def test_a_node_that_fails_is_noticed_and_blamed(nodes):
    with pytest.raises(ValueError, match="failed"):
        _fail(nodes[1])
    assert nodes[0].num_nodes_waiting() == 1
    with pytest.raises(by_node_rank.Refused, match="another node has ended the job") as refused:
        nodes[0].next_rendezvous()
    assert refused.value.code == by_node_rank.BLAMES_ANOTHER


def test_a_reason_that_cannot_be_left_does_not_hide_itself(nodes, monkeypatch):
    node = nodes[1]

    def refuse() -> None:
        node._store = Lost()
        raise by_node_rank.Refused("NNODES differs")

    monkeypatch.setattr(node, "_compare_settings", refuse)
    with pytest.raises(by_node_rank.Refused, match="NNODES differs"):
        node.next_rendezvous()
