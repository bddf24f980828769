"""The two hosts are made once."""

from collections.abc import Iterator

import pytest

from tests.launch.hosts import Cluster, two_hosts


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with two_hosts(tmp_path_factory.mktemp("cluster")) as made:
        yield made
