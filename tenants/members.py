"""The processes of the cluster, as the metadata knows them."""

from __future__ import annotations

from magnetar.admin.values import BookieInfo, BrokerInfo
from metadata.bookies import BookieRegistration, BookieRepository
from metadata.brokers import BrokerRepository
from metadata.store import MetadataStore


class ClusterMembers:
    """Reads afresh each time."""

    def __init__(self, store: MetadataStore) -> None:
        self._brokers = BrokerRepository(store)
        self._bookies = BookieRepository(store)

    async def brokers(self) -> tuple[BrokerInfo, ...]:
        """Those alive, by id."""
        return tuple(
            BrokerInfo(
                one.broker_id, str(one.address),
                "" if one.admin_address is None else str(one.admin_address), one.incarnation,
            )
            for one in await self._brokers.list()
        )

    async def bookies(self) -> tuple[BookieInfo, ...]:
        """All that ever joined, by id, with those that are down now."""
        alive = {one.bookie_id: one for one in await self._bookies.list()}
        names = sorted({*alive, *await self._bookies.known()})
        return tuple(_bookie(name, alive.get(name)) for name in names)


def _bookie(name: str, found: BookieRegistration | None) -> BookieInfo:
    if found is None:
        return BookieInfo(name, "down", "", "", "")
    return BookieInfo(
        name, "read-only" if found.read_only else "writable", str(found.address),
        "" if found.admin_address is None else str(found.admin_address), found.rack,
    )
