"""Bookies: who is alive and where, and whose disks are whose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from magnetar.errors import InvalidFrame
from magnetar.ids import BookieId
from magnetar.runtime.network import Address
from metadata import paths
from metadata.cas import create_settled, delete_settled, put_settled
from metadata.directory import Directory
from metadata.records import RecordReader, encode_record
from metadata.registration import Registrations
from metadata.store import Cancel, MetadataStore, child_names


@dataclass(frozen=True, slots=True)
class BookieRegistration:
    """A live bookie as it announces itself. `incarnation` tells one life from the next."""

    bookie_id: BookieId
    address: Address
    admin_address: Address | None
    rack: str = ""
    read_only: bool = False
    incarnation: str = ""
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


def encode_bookie(registration: BookieRegistration, session_id: int) -> bytes:
    """The stored form of a registration made by this session."""
    return encode_record(
        {
            "id": registration.bookie_id,
            "address": str(registration.address),
            "admin_address": _text_of(registration.admin_address),
            "rack": registration.rack,
            "read_only": registration.read_only,
            "incarnation": registration.incarnation,
            "session": f"{session_id:x}",
        },
        registration.unknown_fields,
    )


def decode_bookie(value: bytes) -> BookieRegistration:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("bookie", value)
    reader.take("session")
    return BookieRegistration(
        BookieId(reader.text("id")),
        address_of(reader.text("address")),
        optional_address_of(reader.text("admin_address", "")),
        reader.text("rack", ""),
        reader.flag("read_only"),
        reader.text("incarnation", ""),
        reader.rest(),
    )


def _text_of(address: Address | None) -> str:
    return "" if address is None else str(address)


def address_of(text: str) -> Address:
    """Raises InvalidFrame unless it is host:port."""
    try:
        return Address.parse(text)
    except ValueError as error:
        raise InvalidFrame(f"a stored record holds {error}") from error


def optional_address_of(text: str) -> Address | None:
    """As `address_of`; empty text is None."""
    return address_of(text) if text else None


class BookieRepository:
    """Registrations (ephemeral), cookies and operator decisions of bookies."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._registrations = Registrations(store)

    async def register(self, registration: BookieRegistration) -> None:
        """Announce the bookie until this session ends, in the place of any earlier life of it.
        To be called again after LOST and CONNECTED."""
        await self._registrations.announce(
            paths.bookie(registration.bookie_id),
            lambda session_id: encode_bookie(registration, session_id),
        )

    async def update(self, registration: BookieRegistration) -> None:
        """Change what is announced, such as `read_only`; announces if it is not."""
        await self.register(registration)

    async def unregister(self, bookie_id: BookieId) -> None:
        """Take the announcement back; absent already is fine."""
        await self._registrations.withdraw(paths.bookie(bookie_id))

    async def list(self) -> list[BookieRegistration]:
        """The bookies alive, sorted by id."""
        values = await self._registrations.values(paths.BOOKIES)
        return sorted(map(decode_bookie, values.values()), key=lambda bookie: bookie.bookie_id)

    async def get_cookie(self, bookie_id: BookieId) -> tuple[bytes, int]:
        """The identity of the bookie's disks, and its version; raises NotFound."""
        record = await self._store.get(paths.bookie_cookie(bookie_id))
        return record.value, record.version

    async def create_cookie(self, bookie_id: BookieId, cookie: bytes) -> int:
        """Raises AlreadyExists: another disk carries this bookie's id."""
        return await create_settled(self._store, paths.bookie_cookie(bookie_id), cookie)

    async def update_cookie(self, bookie_id: BookieId, cookie: bytes, version: int) -> int:
        """Raises BadVersion, NotFound."""
        path = paths.bookie_cookie(bookie_id)
        return await put_settled(self._store, path, cookie, version)

    async def delete_cookie(self, bookie_id: BookieId, version: int) -> None:
        """For a bookie taken out of service for good. Raises BadVersion, NotFound."""
        await delete_settled(self._store, paths.bookie_cookie(bookie_id), version)

    async def known(self) -> tuple[BookieId, ...]:
        """All that ever joined, alive or not, sorted."""
        names = await child_names(self._store, paths.BOOKIE_COOKIES)
        return tuple(sorted(BookieId(paths.decode_name(name)) for name in names))

    def directory(self) -> BookieDirectory:
        return BookieDirectory(self)

    def registrations(self) -> Registrations:
        """The raw announcements, for the directory."""
        return self._registrations


class BookieDirectory:
    """A live view of the bookies. While the metadata is silent the last view stays."""

    def __init__(self, repository: BookieRepository) -> None:
        self._view: Directory[BookieRegistration] = Directory(
            repository.registrations(), paths.BOOKIES, decode_bookie
        )

    async def start(self) -> None:
        """Read the first view, then follow changes. Raises what reading raises."""
        await self._view.start()

    async def stop(self) -> None:
        await self._view.stop()

    def all(self) -> tuple[BookieRegistration, ...]:
        """Every bookie alive, sorted by id."""
        return self._view.all()

    def writable(self) -> tuple[BookieRegistration, ...]:
        """Those that take new entries, sorted by id."""
        return tuple(bookie for bookie in self._view.all() if not bookie.read_only)

    def get(self, bookie_id: BookieId) -> BookieRegistration | None:
        return self._view.get(paths.encode_name(bookie_id))

    def address(self, bookie_id: BookieId) -> Address | None:
        """Where the bookie listens, or None when it is not registered."""
        registration = self.get(bookie_id)
        return None if registration is None else registration.address

    def on_change(self, callback: Callable[[], None]) -> Cancel:
        """Call back after the view changed."""
        return self._view.on_change(callback)
