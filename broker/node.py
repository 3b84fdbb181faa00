"""A whole broker process: ledgers, core, gRPC server, HTTP.

    bookies known -> port bound -> registered -> serving

Stopping is the reverse: no more publishes, what is in flight settles, state is flushed, ledgers
are closed, ownership is given up, clients are told, then the port closes.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

import grpc

from broker.administration.assembly import admin_service, administration_of
from broker.administration.peers import Peers
from broker.administration.service import AdminService
from broker.broker import Broker
from broker.forwarding.sdk_forwarder import SdkForwarder
from broker.probe import GrpcProbe
from broker.service import BrokerService
from broker.settings import BrokerSettings
from ledger.bookie_client import FramedBookieClient
from ledger.driver import LedgerStore
from magnetar.runtime.clock import Clock
from magnetar.runtime.network import Address, Network
from magnetar.wire.options import SERVER_OPTIONS
from metadata.bookies import BookieDirectory, BookieRepository
from metadata.cluster import read_cluster
from metadata.ledgers import LedgerRepository
from metadata.store import MetadataStore
from tenants.policies import TopicPolicies
from tenants.resolver import PolicyResolver

GOODBYE_S = 2.0
"""How long streams may take to deliver their last frame when the broker stops."""


class AdminServer(Protocol):
    """The HTTP side (`broker.http.BrokerHttp` is one)."""

    async def start(self, address: Address) -> Address: ...

    async def stop(self) -> None: ...


class BrokerNode:
    """Start it, read `address`, stop it. `defaults` are the policies where nothing is stored."""

    def __init__(
        self, settings: BrokerSettings, store: MetadataStore, network: Network, clock: Clock,
        random: Random, *, defaults: TopicPolicies | None = None,
        admin: Callable[[BrokerNode], AdminServer] | None = None,
    ) -> None:
        self.settings = settings
        self._store = store
        self._network = network
        self._clock = clock
        self._random = random
        self._defaults = defaults
        self._resolver = PolicyResolver(store, defaults=defaults)
        self._peers = Peers()
        self._make_admin = admin
        self._admin: AdminServer | None = None
        self._admin_address: Address | None = None
        self._bookies = BookieDirectory(BookieRepository(store))
        self._client: FramedBookieClient | None = None
        self._server: grpc.aio.Server | None = None
        self._address: Address | None = None
        self.broker: Broker | None = None
        self.service: BrokerService | None = None
        self._forwarder: SdkForwarder | None = None
        self.admin_service: AdminService | None = None

    @property
    def address(self) -> Address:
        """Where clients reach it."""
        assert self._address is not None, "not started"
        return self._address

    @property
    def admin_address(self) -> Address | None:
        """Where HTTP is served, if it is."""
        return self._admin_address

    @property
    def ready(self) -> bool:
        """Registered and serving."""
        return self.broker is not None and self.broker.serving

    async def start(self) -> None:
        """Raises NotFound (no cluster yet), OSError (the port is taken), MetadataError."""
        cluster = await read_cluster(self._store)
        await self._bookies.start()
        self._client = FramedBookieClient(
            self._network, self._bookies.address, cluster.cluster_key, self._clock, self._random
        )
        ledgers = LedgerStore(
            LedgerRepository(self._store), self._bookies, self._client, self._clock, self._random
        )
        self._server = server = grpc.aio.server(options=SERVER_OPTIONS)
        listen = self.settings.listen
        try:
            port = server.add_insecure_port(str(listen))
        except RuntimeError as error:
            raise OSError(
                f"cannot listen on {listen}: the address is not ours, or the port is taken;"
                " --port names another, 0 any free one"
            ) from error
        self._address = self.settings.advertised or Address(listen.host, port)
        if self.settings.admin_listen is not None and self._make_admin is not None:
            self._admin = self._make_admin(self)
            self._admin_address = await self._admin.start(self.settings.admin_listen)
        self._forwarder = SdkForwarder(self._address, self._clock, self._random)
        self.broker = Broker(
            self._store, ledgers, self._resolver, self._clock, self._random, self.settings,
            GrpcProbe(), self._address, self._admin_address, self._forwarder,
        )
        self.service = BrokerService(self.broker, cluster.cluster_id)
        administration = administration_of(self.broker, self._store, self._clock, self._peers)
        self.admin_service = admin_service(administration, self._store, self._defaults)
        server.add_generic_rpc_handlers((
            self.service.handlers(), self.admin_service.handlers(),
        ))
        # The port answers before the broker is registered, so that nobody is sent to a closed
        # one; until then every request is told to come back.
        await server.start()
        await self.broker.start()

    async def stop(self) -> None:
        """Leave in good order; safe on a node whose start failed."""
        if self.broker is not None:
            await self.broker.stop()
        if self._forwarder is not None:
            await self._forwarder.close()
        if self._server is not None:
            await self._server.stop(GOODBYE_S)
        await self._peers.close()
        if self._admin is not None:
            await self._admin.stop()
        self._resolver.stop()
        if self._client is not None:
            await self._client.close()
        await self._bookies.stop()

    async def abort(self) -> None:
        """Stop at once, without closing anything in order: for tests of failures."""
        if self.broker is not None:
            self.broker.crash()
        if self._forwarder is not None:
            await self._forwarder.close()
        if self._server is not None:
            await self._server.stop(None)
        await self._peers.close()
        if self._client is not None:
            await self._client.close()
        await self._bookies.stop()
