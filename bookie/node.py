"""A whole bookie: identity, storage, server, registration, garbage collection.

    identity -> storage (replay) -> limbo bound -> port open -> registered -> serving
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from bookie.compaction import Compactor
from bookie.garbage import GarbageCollector
from bookie.identity import adopt, establish_identity
from bookie.index import Index
from bookie.ledger_state import ALL_LEDGERS
from bookie.server import BookieServer
from bookie.settings import BookieSettings
from bookie.storage import BookieStorage
from magnetar.errors import MetadataError
from magnetar.ids import LedgerId
from magnetar.runtime.clock import Clock
from magnetar.runtime.disk import Disk, DiskFull
from magnetar.runtime.network import Address, Network
from metadata.bookies import BookieRegistration, BookieRepository
from metadata.cluster import read_cluster
from metadata.ledgers import LedgerRepository
from metadata.store import MetadataStore, SessionState

_RETRY_S: Final = 0.5

_log = logging.getLogger(__name__)


class AdminServer(Protocol):
    """The HTTP side, so that the node runs without aiohttp (`bookie.http.BookieHttp` is one)."""

    async def start(self, address: Address) -> Address: ...

    async def stop(self) -> None: ...


class BookieNode:
    """Start it, read `address`, stop it."""

    def __init__(
        self,
        settings: BookieSettings,
        store: MetadataStore,
        network: Network,
        disk: Disk,
        index: Index,
        clock: Clock,
        random_: random.Random,
        *,
        on_fatal: Callable[[BaseException], None],
        admin: Callable[[BookieNode], AdminServer] | None = None,
    ) -> None:
        """`on_fatal` must end the process: what the disk holds is not known then."""
        self.settings = settings
        self._store = store
        self._network = network
        self._disk = disk
        self._index = index
        self._clock = clock
        self._random = random_
        self._bookies = BookieRepository(store)
        self._ledgers = LedgerRepository(store)
        self.storage = BookieStorage(
            disk, index, clock, random_, settings.limits,
            on_fatal=on_fatal, on_read_only=lambda _: self._announce_soon(),
        )
        compactor = Compactor(
            self.storage, random_, live_ratio=settings.compact_below_live_ratio,
            disk_ratio=settings.compact_above_disk_ratio,
        )
        self.garbage = GarbageCollector(
            self.storage, self._ledger_exists, self._ledgers.listed_beside, compactor, clock,
            interval_s=settings.gc_interval_s,
        )
        self._cookie = b""
        self._make_admin = admin
        self._admin: AdminServer | None = None
        self._admin_address: Address | None = None
        self.server: BookieServer | None = None
        self._incarnation = f"{random_.getrandbits(64):016x}"
        self._announce_due = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._cancel_watch: Callable[[], None] = lambda: None
        self.registered = False

    @property
    def address(self) -> Address:
        """Where brokers reach it."""
        assert self.server is not None
        host = self.settings.advertised_host or self.server.address.host
        return Address(host, self.server.address.port)

    @property
    def admin_address(self) -> Address | None:
        """Where HTTP is served, if it is."""
        return self._admin_address

    @property
    def ready(self) -> bool:
        """Serving and announced."""
        return self.storage.serving and self.registered

    async def start(self) -> None:
        """Raises WrongIdentity, NotFound (no cluster yet), DiskFull, DiskFailure, OSError."""
        settings = self.settings
        cluster = await read_cluster(self._store)
        replaced = await establish_identity(
            self._disk, self._bookies, settings.bookie_id, cluster.cluster_id, self._random,
            accept_loss=settings.accept_loss,
        )
        await self.storage.start()
        if replaced is not None:
            if not await self.storage.enter_limbo("the disk was lost and its loss accepted"):
                raise DiskFull("no room to record that the disk was lost; free some first")
            await adopt(self._disk, replaced)
        self._cookie, _ = await self._bookies.get_cookie(settings.bookie_id)
        await self._bound_limbo()
        self.server = BookieServer(
            self.storage, self._network, cluster.cluster_key, settings.bookie_id, self._clock,
            self._random, settings.server_limits,
        )
        await self.server.start(settings.listen)
        if settings.admin_listen is not None and self._make_admin is not None:
            self._admin = self._make_admin(self)
            self._admin_address = await self._admin.start(settings.admin_listen)
        await self._announce()
        self._cancel_watch = self._store.on_session(self._session_changed)
        self._tasks = [
            asyncio.create_task(self._announce_forever(), name="bookie announce"),
            asyncio.create_task(self.garbage.run(), name="bookie garbage"),
        ]

    async def stop(self) -> None:
        """Withdraw, close the port, finish what was accepted, give everything back."""
        self._cancel_watch()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.registered:
            try:
                await self._bookies.unregister(self.settings.bookie_id)
            except MetadataError as error:
                _log.info("not withdrawn, the session's end will do it: %s", error)
        self.registered = False
        if self._admin is not None:
            await self._admin.stop()
        if self.server is not None:
            await self.server.stop()
        await self.storage.stop()

    async def _bound_limbo(self) -> None:
        """After a loss: ledgers made from now on were certainly not part of it."""
        if self.storage.node_state.limbo_ceiling == ALL_LEDGERS:
            highest: LedgerId = await self._ledgers.allocate()
            await self.storage.bound_limbo(highest)

    async def _ledger_exists(self, ledger_id: LedgerId) -> bool:
        """R19: "absent" counts only from metadata that know this disk. Begun anew, restored or
        replaced under a running bookie, they know no ledger, and all data would go."""
        if await self._ledgers.exists(ledger_id):
            return True
        cookie, _ = await self._bookies.get_cookie(self.settings.bookie_id)
        if cookie != self._cookie:
            raise MetadataError("these metadata know another disk under this bookie's name")
        return False

    # announcing

    def _session_changed(self, state: SessionState) -> None:
        if state is SessionState.LOST:
            self.registered = False
        elif state is SessionState.CONNECTED:
            self._announce_soon()

    def _announce_soon(self) -> None:
        self._announce_due.set()

    async def _announce_forever(self) -> None:
        while True:
            await self._announce_due.wait()
            self._announce_due.clear()
            try:
                await self._announce()
            except MetadataError as error:
                _log.warning("not announced, trying again: %s", error)
                self._announce_due.set()
                await self._clock.sleep(_RETRY_S)

    async def _announce(self) -> None:
        registration = BookieRegistration(
            self.settings.bookie_id, self.address, self._admin_address, self.settings.rack,
            read_only=self.storage.space.read_only, incarnation=self._incarnation,
        )
        if self._admin_address is not None and self.settings.advertised_host:
            admin = Address(self.settings.advertised_host, self._admin_address.port)
            registration = replace(registration, admin_address=admin)
        await self._bookies.register(registration)
        self.registered = True
