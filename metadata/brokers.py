"""Brokers: who is alive, in which incarnation, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from magnetar.ids import BrokerId
from magnetar.runtime.network import Address
from metadata import paths
from metadata.bookies import address_of, optional_address_of
from metadata.directory import Directory
from metadata.records import RecordReader, encode_record
from metadata.registration import Registrations
from metadata.store import Cancel, MetadataStore


@dataclass(frozen=True, slots=True)
class BrokerRegistration:
    """A live broker as it announces itself. `address` is the gRPC one clients are told."""

    broker_id: BrokerId
    incarnation: str
    address: Address
    admin_address: Address | None = None
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


def encode_broker(registration: BrokerRegistration, session_id: int) -> bytes:
    """The stored form of a registration made by this session."""
    admin_address = registration.admin_address
    return encode_record(
        {
            "id": registration.broker_id,
            "incarnation": registration.incarnation,
            "address": str(registration.address),
            "admin_address": "" if admin_address is None else str(admin_address),
            "session": f"{session_id:x}",
        },
        registration.unknown_fields,
    )


def decode_broker(value: bytes) -> BrokerRegistration:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("broker", value)
    reader.take("session")
    return BrokerRegistration(
        BrokerId(reader.text("id")),
        reader.text("incarnation"),
        address_of(reader.text("address")),
        optional_address_of(reader.text("admin_address", "")),
        reader.rest(),
    )


class BrokerRepository:
    """The brokers' announcements. A topic's owner is valid while its incarnation is here."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._registrations = Registrations(store)

    async def register(self, registration: BrokerRegistration) -> None:
        """Announce the broker until this session ends, in the place of any earlier incarnation
        of it, which thereby has ended. To be called again after LOST and CONNECTED."""
        await self._registrations.announce(
            paths.broker(registration.broker_id),
            lambda session_id: encode_broker(registration, session_id),
        )

    async def unregister(self, broker_id: BrokerId) -> None:
        """Take the announcement back; absent already is fine."""
        await self._registrations.withdraw(paths.broker(broker_id))

    async def get(self, broker_id: BrokerId) -> BrokerRegistration:
        """Raises NotFound, which is certain: no incarnation of it lives."""
        return decode_broker((await self._store.get(paths.broker(broker_id))).value)

    async def list(self) -> list[BrokerRegistration]:
        """The brokers alive, sorted by id."""
        values = await self._registrations.values(paths.BROKERS)
        return sorted(map(decode_broker, values.values()), key=lambda broker: broker.broker_id)

    def directory(self) -> BrokerDirectory:
        return BrokerDirectory(self)

    def registrations(self) -> Registrations:
        """The raw announcements, for the directory."""
        return self._registrations


class BrokerDirectory:
    """A live view of the brokers. While the metadata is silent the last view stays."""

    def __init__(self, repository: BrokerRepository) -> None:
        self._view: Directory[BrokerRegistration] = Directory(
            repository.registrations(), paths.BROKERS, decode_broker
        )

    async def start(self) -> None:
        """Read the first view, then follow changes. Raises what reading raises."""
        await self._view.start()

    async def stop(self) -> None:
        await self._view.stop()

    def all(self) -> tuple[BrokerRegistration, ...]:
        """Every broker alive, sorted by id."""
        return self._view.all()

    def get(self, broker_id: BrokerId) -> BrokerRegistration | None:
        return self._view.get(paths.encode_name(broker_id))

    def on_change(self, callback: Callable[[], None]) -> Cancel:
        """Call back after the view changed."""
        return self._view.on_change(callback)
