"""One cluster for all tests here: it takes a minute to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster, cluster
from tests.cluster.faults import Calm, calm
from tests.cluster.world import why_not


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, a desk and the servers; skipped where namespaces cannot be made."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with cluster(keep=tmp_path_factory.mktemp("hosts") / "logs") as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(hosts: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A training in the store CALM."""
    return calm(hosts, tmp_path_factory.mktemp("calm"))
