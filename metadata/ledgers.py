"""Ledger metadata: which bookies hold which entries, and where a ledger ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from magnetar.errors import (
    AlreadyExists,
    BadVersion,
    ConnectionLoss,
    InvalidArgument,
    InvalidFrame,
    LedgerNotFound,
    NotFound,
)
from magnetar.ids import NO_ENTRY_ID, BookieId, EntryId, LedgerId
from metadata import paths
from metadata.cas import create_settled, delete_settled, put_settled
from metadata.records import Json, RecordReader, encode_record
from metadata.store import Cancel, MetadataStore, child_names

MAX_ALLOCATION_ATTEMPTS: Final = 1000


class LedgerState(Enum):
    """Where a ledger is in its life; it only ever moves down this list."""

    OPEN = "open"
    IN_RECOVERY = "in_recovery"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Fragment:
    """Entries from `first_entry` up to the next fragment are striped over this ensemble."""

    first_entry: EntryId
    ensemble: tuple[BookieId, ...]
    under_replicated: bool = False


@dataclass(frozen=True, slots=True)
class LedgerMetadata:
    """A ledger's record. `last_entry` and `length_bytes` mean something only when CLOSED;
    the wanted sizes are what policy asked for when too few bookies were there."""

    ledger_id: LedgerId
    ensemble_size: int
    write_quorum: int
    ack_quorum: int
    state: LedgerState
    fragments: tuple[Fragment, ...]
    last_entry: EntryId = NO_ENTRY_ID
    length_bytes: int = 0
    wanted_ensemble_size: int = 0
    wanted_write_quorum: int = 0
    created_ms: int = 0
    properties: tuple[tuple[str, str], ...] = ()
    unknown_fields: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    def fragment_for(self, entry_id: EntryId) -> Fragment:
        """The one fragment an entry belongs to (R3); raises InvalidArgument below 0."""
        if entry_id < 0:
            raise InvalidArgument(f"no fragment holds entry {entry_id}")
        for fragment in reversed(self.fragments):
            if fragment.first_entry <= entry_id:
                return fragment
        raise InvalidArgument(f"ledger {self.ledger_id} has no fragment for entry {entry_id}")

    def validate(self) -> None:
        """Raises InvalidArgument unless the record is one the protocol can have made (R1, I14):
        sizes in order, fragments from 0 strictly upward, ensembles whole and of distinct
        bookies, and nothing beginning past the end."""
        if not self.ensemble_size >= self.write_quorum >= self.ack_quorum >= 1:
            raise self._invalid("needs ensemble >= write quorum >= ack quorum >= 1")
        if not self.fragments or self.fragments[0].first_entry != 0:
            raise self._invalid("needs a first fragment beginning at entry 0")
        for before, after in zip(self.fragments, self.fragments[1:], strict=False):
            if after.first_entry <= before.first_entry:
                raise self._invalid("has fragments out of order")
        for fragment in self.fragments:
            members = fragment.ensemble
            if len(members) != self.ensemble_size or len(frozenset(members)) != len(members):
                raise self._invalid(f"has a malformed ensemble {members}")
        if self.state is LedgerState.CLOSED:
            if self.last_entry < NO_ENTRY_ID or self.length_bytes < 0:
                raise self._invalid(f"cannot end at entry {self.last_entry}")
            if self.fragments[-1].first_entry > max(self.last_entry + 1, 0):
                raise self._invalid("has a fragment that begins past its end")
        elif self.last_entry != NO_ENTRY_ID:
            raise self._invalid("is not closed and yet has a last entry")

    def _invalid(self, what: str) -> InvalidArgument:
        return InvalidArgument(f"ledger {self.ledger_id} {what}")


def encode_ledger(metadata: LedgerMetadata) -> bytes:
    """The stored form; raises InvalidArgument for what `validate` refuses."""
    metadata.validate()
    fragments: list[Json] = [_encode_fragment(fragment) for fragment in metadata.fragments]
    return encode_record(
        {
            "id": metadata.ledger_id,
            "ensemble_size": metadata.ensemble_size,
            "write_quorum": metadata.write_quorum,
            "ack_quorum": metadata.ack_quorum,
            "state": metadata.state.value,
            "fragments": fragments,
            "last_entry": metadata.last_entry,
            "length_bytes": metadata.length_bytes,
            "wanted_ensemble_size": metadata.wanted_ensemble_size,
            "wanted_write_quorum": metadata.wanted_write_quorum,
            "created_ms": metadata.created_ms,
            "properties": dict(metadata.properties),
        },
        metadata.unknown_fields,
    )


def _encode_fragment(fragment: Fragment) -> Json:
    encoded: dict[str, Json] = {"first": fragment.first_entry, "ensemble": [*fragment.ensemble]}
    if fragment.under_replicated:
        encoded["under_replicated"] = True
    return encoded


def decode_ledger(value: bytes) -> LedgerMetadata:
    """Raises InvalidFrame for a malformed record, NotSupported for a newer format."""
    reader = RecordReader("ledger", value)
    state_text = reader.text("state")
    try:
        state = LedgerState(state_text)
    except ValueError:
        raise InvalidFrame(f"unknown state {state_text!r} in a stored ledger record") from None
    metadata = LedgerMetadata(
        ledger_id=LedgerId(reader.number("id")),
        ensemble_size=reader.number("ensemble_size"),
        write_quorum=reader.number("write_quorum"),
        ack_quorum=reader.number("ack_quorum"),
        state=state,
        fragments=tuple(_decode_fragment(part) for part in reader.items("fragments")),
        last_entry=EntryId(reader.number("last_entry")),
        length_bytes=reader.number("length_bytes"),
        wanted_ensemble_size=reader.number("wanted_ensemble_size"),
        wanted_write_quorum=reader.number("wanted_write_quorum"),
        created_ms=reader.number("created_ms"),
        properties=reader.properties(),
        unknown_fields=reader.rest(),
    )
    try:
        metadata.validate()
    except InvalidArgument as error:
        raise InvalidFrame(f"the stored record of {error}") from error
    return metadata


def _decode_fragment(part: Any) -> Fragment:
    reader = RecordReader.nested("ledger fragment", part)
    return Fragment(
        EntryId(reader.number("first")),
        tuple(BookieId(name) for name in reader.texts("ensemble")),
        reader.flag("under_replicated"),
    )


class LedgerRepository:
    """Ledger records under compare-and-set. Lost answers of its own writes are settled; any call
    may still raise ConnectionLoss or SessionExpired."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def allocate(self) -> LedgerId:
        """A ledger id never given before and above all given before (R1). An id whose
        allocation was lost in transit is skipped, which is safe."""
        for _ in range(MAX_ALLOCATION_ATTEMPTS):
            try:
                record = await self._store.get(paths.NEXT_LEDGER)
            except NotFound:
                await self._begin_allocation()
                continue
            taken = _decode_next(record.value)
            try:
                await self._store.put(
                    paths.NEXT_LEDGER, _encode_next(taken + 1), record.version
                )
            except (BadVersion, ConnectionLoss):
                continue
            return LedgerId(taken)
        raise ConnectionLoss("no ledger id could be allocated; the metadata is overloaded")

    async def _begin_allocation(self) -> None:
        try:
            await self._store.create(paths.NEXT_LEDGER, _encode_next(0))
        except (AlreadyExists, ConnectionLoss):
            return

    async def create(self, metadata: LedgerMetadata) -> int:
        """Store a new ledger; answers its version. Raises AlreadyExists."""
        return await create_settled(
            self._store, paths.ledger(metadata.ledger_id), encode_ledger(metadata)
        )

    async def get(self, ledger_id: LedgerId) -> tuple[LedgerMetadata, int]:
        """The record and its version; raises LedgerNotFound only when provably absent."""
        try:
            record = await self._store.get(paths.ledger(ledger_id))
        except NotFound:
            raise LedgerNotFound(f"there is no ledger {ledger_id}") from None
        return decode_ledger(record.value), record.version

    async def update(self, metadata: LedgerMetadata, version: int) -> int:
        """Replace the record if `version` is current; answers the new version. Raises
        BadVersion, and LedgerNotFound when the ledger was deleted."""
        path = paths.ledger(metadata.ledger_id)
        try:
            return await put_settled(self._store, path, encode_ledger(metadata), version)
        except NotFound:
            raise LedgerNotFound(f"ledger {metadata.ledger_id} was deleted") from None

    async def delete(self, ledger_id: LedgerId) -> None:
        """Forget the ledger; bookies then free its space. Absent already is fine."""
        try:
            await delete_settled(self._store, paths.ledger(ledger_id))
        except NotFound:
            return

    async def exists(self, ledger_id: LedgerId) -> bool:
        """Certain either way (R19), or raises ConnectionLoss or SessionExpired."""
        try:
            await self._store.get(paths.ledger(ledger_id))
        except NotFound:
            return False
        return True

    async def list(self) -> AsyncIterator[LedgerId]:
        """All ledgers in order of id, chunk by chunk; not a snapshot."""
        for high in await child_names(self._store, paths.LEDGERS):
            for middle in await child_names(self._store, f"{paths.LEDGERS}/{high}"):
                for low in await child_names(self._store, f"{paths.LEDGERS}/{high}/{middle}"):
                    yield paths.ledger_id_of(high, middle, low)

    async def listed_beside(self, ledger_id: LedgerId) -> frozenset[LedgerId]:
        """The ledgers whose ids share all but the lowest 12 bits with this one, itself included,
        by one call. That one is missing is a hint only: `exists` is certain (R19)."""
        names = await child_names(self._store, paths.ledgers_beside(ledger_id))
        base = ledger_id >> 12 << 12
        return frozenset(LedgerId(base | int(name, 16)) for name in names)

    def watch(self, ledger_id: LedgerId, callback: Callable[[], None]) -> Cancel:
        """Call back after changes of the record, and after a reconnect."""
        return self._store.watch(paths.ledger(ledger_id), callback)


def _encode_next(ledger_id: int) -> bytes:
    return encode_record({"next": ledger_id})


def _decode_next(value: bytes) -> int:
    return RecordReader("ledger counter", value).number("next")
