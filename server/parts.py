"""The parts of a cluster as processes: each enters started and leaves stopped, in order.

`serve_standalone` shows all of them on one screen. A part yields the line that announces it.
"""

from __future__ import annotations

import logging
import random
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bookie.http import BookieHttp
from bookie.node import BookieNode
from bookie.rocks_index import RocksIndex
from bookie.settings import BookieSettings
from broker.http import BrokerHttp
from broker.node import BrokerNode
from broker.settings import BrokerSettings
from magnetar.errors import InvalidArgument
from magnetar.ids import BookieId, BrokerId
from magnetar.runtime.clock import Clock, SystemClock
from magnetar.runtime.file_disk import FileDisk
from magnetar.runtime.network import Address, Network
from magnetar.runtime.tcp import TcpNetwork
from metadata.cluster import initialize_cluster
from metadata.embedded import EmbeddedStore
from metadata.open import open_store
from metadata.served import MetadataServer
from metadata.store import MetadataStore
from server.metadata_http import MetadataHttp
from server.process import end_process
from tenants.administration import TenantAdministration
from tenants.policies import TopicPolicies, parse_changes

STANDALONE_POLICIES: Final = TopicPolicies(ensemble_size=1, write_quorum=1, ack_quorum=1)
"""One process has one bookie, hence one copy."""

_ID_FILE: Final = "bookie-id"


@dataclass(frozen=True, slots=True)
class Standalone:
    """`data` holds the metadata and the bookie side by side."""

    data: Path
    listen: Address
    admin_listen: Address


@dataclass(frozen=True, slots=True)
class Bookie:
    """An empty `bookie_id` is drawn once and kept in the data folder."""

    metadata_url: str
    session_timeout_s: float
    data: Path
    listen: Address
    admin_listen: Address | None
    advertised: Address | None = None
    bookie_id: str = ""
    rack: str = ""
    accept_loss: bool = False


@dataclass(frozen=True, slots=True)
class Broker:
    """An empty `broker_id` becomes the machine's name and the port."""

    metadata_url: str
    session_timeout_s: float
    listen: Address
    admin_listen: Address | None
    advertised: Address | None = None
    broker_id: str = ""


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"cannot use {path} as data folder: {error.strerror}") from error
    return path


def _bookie_id(wanted: str, data: Path) -> BookieId:
    file = data / _ID_FILE
    if wanted:
        return BookieId(wanted)
    if not file.exists():
        file.write_text(f"bookie-{secrets.token_hex(4)}\n")
    return BookieId(file.read_text().strip())


def _broker_id(wanted: str, listen: Address) -> BrokerId:
    suffix = str(listen.port) if listen.port else secrets.token_hex(4)
    return BrokerId(wanted or f"{socket.gethostname()}-{suffix}")


@asynccontextmanager
async def _running_bookie(
    settings: Bookie, store: MetadataStore, network: Network, clock: Clock
) -> AsyncIterator[BookieNode]:
    data = _folder(settings.data)
    disk = FileDisk(_folder(data / "log"))
    index = RocksIndex(_folder(data / "index"))
    node = BookieNode(
        BookieSettings(
            bookie_id=_bookie_id(settings.bookie_id, data),
            listen=settings.listen,
            advertised_host=settings.advertised.host if settings.advertised else "",
            admin_listen=settings.admin_listen,
            rack=settings.rack,
            accept_loss=settings.accept_loss,
        ),
        store, network, disk, index, clock, random.SystemRandom(),
        on_fatal=end_process, admin=BookieHttp,
    )
    try:
        await node.start()
        yield node
    finally:
        await node.stop()
        index.close()
        disk.close()


@asynccontextmanager
async def _running_broker(
    settings: Broker, store: MetadataStore, network: Network, clock: Clock,
    defaults: TopicPolicies | None = None,
) -> AsyncIterator[BrokerNode]:
    node = BrokerNode(
        BrokerSettings(
            broker_id=_broker_id(settings.broker_id, settings.listen),
            listen=settings.listen,
            advertised=settings.advertised,
            admin_listen=settings.admin_listen,
        ),
        store, network, clock, random.SystemRandom(), defaults=defaults, admin=BrokerHttp,
    )
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


@asynccontextmanager
async def _session(
    url: str, network: Network, clock: Clock, timeout_s: float
) -> AsyncIterator[MetadataStore]:
    store = await open_store(url, network=network, clock=clock, session_timeout_s=timeout_s)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def serve_metadata(
    data: Path, listen: Address, admin_listen: Address | None
) -> AsyncIterator[str]:
    """Metadata for the processes of one machine."""
    store = EmbeddedStore.open(_folder(data))
    server = MetadataServer(store, TcpNetwork(), on_fatal=end_process)
    admin = MetadataHttp(store)
    try:
        address = await server.start(listen)
        if admin_listen is not None:
            await admin.start(admin_listen)
        yield f"magnetar metadata ready on {address}"
    finally:
        await admin.stop()
        await server.stop()
        await store.close()


@asynccontextmanager
async def serve_bookie(settings: Bookie) -> AsyncIterator[str]:
    """A storage node."""
    network, clock = TcpNetwork(), SystemClock()
    timeout_s = settings.session_timeout_s
    async with (
        _session(settings.metadata_url, network, clock, timeout_s) as store,
        _running_bookie(settings, store, network, clock) as node,
    ):
        yield f"magnetar bookie {node.settings.bookie_id} ready on {node.address}"


@asynccontextmanager
async def serve_broker(settings: Broker) -> AsyncIterator[str]:
    """A broker."""
    network, clock = TcpNetwork(), SystemClock()
    timeout_s = settings.session_timeout_s
    async with (
        _session(settings.metadata_url, network, clock, timeout_s) as store,
        _running_broker(settings, store, network, clock) as node,
    ):
        yield f"magnetar broker {node.settings.broker_id} ready on {node.address}"


@asynccontextmanager
async def serve_standalone(settings: Standalone) -> AsyncIterator[str]:
    """Metadata, a bookie and a broker in this process, over loopback as in a cluster."""
    network, clock = TcpNetwork(), SystemClock()
    async with AsyncExitStack() as stack:
        embedded = EmbeddedStore.open(_folder(settings.data / "metadata"), clock)
        stack.push_async_callback(embedded.close)
        store = embedded.open_session()
        await initialize_cluster(store, random_bytes=secrets.token_bytes, clock=clock)
        bookie = Bookie(
            metadata_url="", session_timeout_s=0, data=settings.data / "bookie",
            listen=Address("127.0.0.1", 0), admin_listen=None,
        )
        await stack.enter_async_context(_running_bookie(bookie, store, network, clock))
        broker = Broker(
            metadata_url="", session_timeout_s=0, listen=settings.listen,
            admin_listen=settings.admin_listen, broker_id="standalone",
        )
        node = await stack.enter_async_context(
            _running_broker(broker, store, network, clock, STANDALONE_POLICIES)
        )
        yield f"magnetar standalone ready on {node.address}"


async def initialize_metadata(url: str, policies: list[str]) -> tuple[str, dict[str, object]]:
    """Make the cluster's records where they are missing and set the named policies; answers the
    cluster's id and what was set."""
    network, clock = TcpNetwork(), SystemClock()
    logging.basicConfig(level=logging.WARNING)
    changes = parse_changes(policies)
    async with _session(url, network, clock, 6.0) as store:
        cluster = await initialize_cluster(store, random_bytes=secrets.token_bytes, clock=clock)
        if changes:
            await TenantAdministration(store).change_cluster_policies(changes)
        return cluster.cluster_id, dict(changes)
