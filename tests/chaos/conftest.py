"""Three of each kind: ZooKeeper servers, bookies, brokers; one cluster for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.cluster import ProcessCluster
from tests.chaos.zookeeper_ensemble import ZooKeeperEnsemble
from tests.zookeeper_server import missing_for_zookeeper

SESSION_TIMEOUT_S = 4.0


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperEnsemble]:
    missing = missing_for_zookeeper()
    if missing:
        pytest.skip(f"needs ZooKeeper; missing: {', '.join(missing)}")
    servers = ZooKeeperEnsemble(tmp_path_factory.mktemp("zookeeper"))
    servers.start()
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def cluster(
    ensemble: ZooKeeperEnsemble, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessCluster]:
    session = ["--session-timeout-s", str(SESSION_TIMEOUT_S)]
    processes = ProcessCluster(
        tmp_path_factory.mktemp("cluster"), brokers=3,
        metadata_url=f"zk://{ensemble.hosts}/chaos", bookie_options=session,
        broker_options=session,
    )  # fmt: skip
    with processes:
        yield processes
