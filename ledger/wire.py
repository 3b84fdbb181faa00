"""Frames between broker and bookie: broker -> bookie requests, bookie -> broker replies.

    frame body   u8 kind | u64 request id | payload            all integers big-endian
    ADD          u64 ledger | i64 entry | i64 LAC | u8 flags | u32 digest | body
    ADD_REPLY    u8 status | u32 count      answers `count` adds from the request id on
    READ         u64 ledger | i64 first entry | u32 max entries | u32 max bytes | u8 flags
    READ_REPLY   u8 status | u32 count | count x
                 (i64 entry | i64 LAC | u32 digest | u32 length | body)
    READ_LAC     u64 ledger | u8 flags
    READ_LAC_REPLY  u8 status | i64 LAC | i64 last entry

The handshake frames are in `ledger.handshake`. The codec does no I/O; decoding copies nothing
out of the frame for adds (the body is a view: copy it if it outlives the call) and copies the
bodies of read replies. Every decoder raises InvalidFrame on bytes that do not follow the format.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from crc32c import crc32c

from magnetar.errors import InvalidFrame
from magnetar.ids import NO_ENTRY_ID, EntryId, LedgerId
from magnetar.runtime.network import Buffer

MAX_FRAME_BYTES: Final = 32 << 20
"""No frame body is longer; the link checks it before it allocates."""

PROTOCOL_VERSION_MIN: Final = 1
PROTOCOL_VERSION_MAX: Final = 1


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    CHALLENGE = 2
    PROOF = 3
    WELCOME = 4
    ERROR = 5
    ADD = 16
    ADD_REPLY = 17
    READ = 18
    READ_REPLY = 19
    READ_LAC = 20
    READ_LAC_REPLY = 21


class Status(IntEnum):
    """How a bookie answered. Only NO_ENTRY and NO_LEDGER are certain negatives."""

    OK = 0
    FENCED = 1
    NO_ENTRY = 2
    NO_LEDGER = 3
    READ_ONLY = 4
    BODY_CONFLICT = 5
    UNKNOWN = 6
    UNAUTHORIZED = 7
    BAD_REQUEST = 8
    OVERLOADED = 9


NEGATIVES: Final = frozenset((Status.NO_ENTRY, Status.NO_LEDGER))
"""The certain answers "it is not here"; every other failure means "not known"."""

_HEADER = struct.Struct(">BQ")
_ADD = struct.Struct(">BQQqqBI")
_ADD_REPLY = struct.Struct(">BQBI")
_READ = struct.Struct(">BQQqIIB")
_READ_REPLY = struct.Struct(">BQBI")
_STORED = struct.Struct(">qqII")
_READ_LAC = struct.Struct(">BQQB")
_READ_LAC_REPLY = struct.Struct(">BQBqq")
_DIGEST = struct.Struct(">QqqI")

_RECOVERY_FLAG = 1
_FENCE_FLAG = 1
_STATUSES: Final = {int(status): status for status in Status}


def entry_digest(
    ledger_id: LedgerId, entry_id: EntryId, last_add_confirmed: EntryId, body: Buffer
) -> int:
    """CRC32C over the entry's place and its body, so that a misplaced body is seen as well."""
    place = _DIGEST.pack(ledger_id, entry_id, last_add_confirmed, len(body))
    return crc32c(body, crc32c(place))


@dataclass(slots=True)
class AddRequest:
    """Store one entry. `recovery` adds pass a fence; normal adds do not (R9).

    Not frozen only because one is made for every entry, and frozen ones cost thrice the time.
    """

    ledger_id: LedgerId
    entry_id: EntryId
    last_add_confirmed: EntryId
    recovery: bool
    body: Buffer
    digest: int

    @classmethod
    def make(
        cls,
        ledger_id: LedgerId,
        entry_id: EntryId,
        last_add_confirmed: EntryId,
        body: Buffer,
        recovery: bool = False,
    ) -> AddRequest:
        """With its digest computed."""
        digest = entry_digest(ledger_id, entry_id, last_add_confirmed, body)
        return cls(ledger_id, entry_id, last_add_confirmed, recovery, body, digest)

    def verify(self) -> bool:
        """Whether the digest holds."""
        return self.digest == entry_digest(
            self.ledger_id, self.entry_id, self.last_add_confirmed, self.body
        )


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Read a contiguous range from `first_entry_id`; `fence` fences the ledger first (R11)."""

    ledger_id: LedgerId
    first_entry_id: EntryId
    max_entries: int
    max_bytes: int
    fence: bool = False


@dataclass(frozen=True, slots=True)
class ReadLacRequest:
    """Ask for the highest LAC the bookie saw; `fence` fences the ledger first (R8)."""

    ledger_id: LedgerId
    fence: bool = False


@dataclass(frozen=True, slots=True)
class AddReply:
    """Answers the adds `request_id` to `request_id + count - 1` alike."""

    status: Status
    count: int = 1


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry as a bookie keeps it."""

    entry_id: EntryId
    last_add_confirmed: EntryId
    body: bytes
    digest: int

    def verify(self, ledger_id: LedgerId) -> bool:
        """Whether the digest holds for this ledger."""
        return self.digest == entry_digest(
            ledger_id, self.entry_id, self.last_add_confirmed, self.body
        )


@dataclass(frozen=True, slots=True)
class ReadReply:
    """Contiguous entries from the first asked; `status` tells of the first when there are none."""

    status: Status
    entries: tuple[StoredEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadLacReply:
    """The highest LAC known to the bookie and its highest entry, -1 each when it has none."""

    status: Status
    last_add_confirmed: EntryId = NO_ENTRY_ID
    last_entry_id: EntryId = NO_ENTRY_ID


Message = AddRequest | AddReply | ReadRequest | ReadReply | ReadLacRequest | ReadLacReply


def encode_add(request_id: int, request: AddRequest) -> tuple[bytes, Buffer]:
    """Header and body as two parts, so that the body is not copied for each of its bookies."""
    return (
        _ADD.pack(
            Kind.ADD, request_id, request.ledger_id, request.entry_id,
            request.last_add_confirmed, _RECOVERY_FLAG if request.recovery else 0, request.digest,
        ),
        request.body,
    )


def decode_add(frame: memoryview) -> AddRequest:
    """The body is a view into the frame; the digest is not verified here."""
    if len(frame) < _ADD.size:
        raise InvalidFrame(f"an add of {len(frame)} bytes is shorter than its header")
    _, _, ledger_id, entry_id, confirmed, flags, digest = _ADD.unpack_from(frame)
    if entry_id < 0 or not -1 <= confirmed < entry_id or flags & ~_RECOVERY_FLAG:
        raise InvalidFrame(f"an add of entry {entry_id} with LAC {confirmed}, flags {flags}")
    return AddRequest(
        ledger_id, entry_id, confirmed, bool(flags & _RECOVERY_FLAG), frame[_ADD.size:], digest
    )


def encode_add_reply(first_request_id: int, status: Status, count: int = 1) -> bytes:
    """Answers `count` consecutive request ids at once."""
    return _ADD_REPLY.pack(Kind.ADD_REPLY, first_request_id, status, count)


def decode_add_reply(frame: memoryview) -> AddReply:
    """See `AddReply`."""
    _, _, status, count = _unpack(_ADD_REPLY, frame)
    if count < 1:
        raise InvalidFrame("an add reply that answers nothing")
    return AddReply(_status(status), count)


def encode_read(request_id: int, request: ReadRequest) -> bytes:
    """One frame body."""
    return _READ.pack(
        Kind.READ, request_id, request.ledger_id, request.first_entry_id, request.max_entries,
        request.max_bytes, _FENCE_FLAG if request.fence else 0,
    )


def decode_read(frame: memoryview) -> ReadRequest:
    """A request for at least one entry."""
    _, _, ledger_id, first, max_entries, max_bytes, flags = _unpack(_READ, frame)
    if first < 0 or max_entries < 1 or flags & ~_FENCE_FLAG:
        raise InvalidFrame(f"a read of {max_entries} entries from {first}, flags {flags}")
    return ReadRequest(
        LedgerId(ledger_id), EntryId(first), max_entries, max_bytes, bool(flags & _FENCE_FLAG)
    )


def encode_read_reply(request_id: int, reply: ReadReply) -> list[Buffer]:
    """The parts of one frame; bodies are not copied."""
    entries = reply.entries
    parts: list[Buffer] = [
        _READ_REPLY.pack(Kind.READ_REPLY, request_id, reply.status, len(entries))
    ]
    for entry in entries:
        body = entry.body
        parts.append(
            _STORED.pack(entry.entry_id, entry.last_add_confirmed, entry.digest, len(body))
        )
        parts.append(body)
    return parts


def decode_read_reply(frame: memoryview) -> ReadReply:
    """Copies the bodies. That the entries are contiguous is checked; digests are not."""
    if len(frame) < _READ_REPLY.size:
        raise InvalidFrame("a read reply shorter than its header")
    _, _, status, count = _READ_REPLY.unpack_from(frame)
    at = _READ_REPLY.size
    entries: list[StoredEntry] = []
    for _ in range(count):
        if len(frame) < at + _STORED.size:
            raise InvalidFrame("a read reply ends in the middle of an entry's header")
        entry_id, confirmed, digest, length = _STORED.unpack_from(frame, at)
        at += _STORED.size
        if len(frame) < at + length:
            raise InvalidFrame("a read reply ends in the middle of an entry")
        if entries and entry_id != entries[-1].entry_id + 1:
            raise InvalidFrame("a read reply whose entries are not contiguous")
        entries.append(
            StoredEntry(EntryId(entry_id), EntryId(confirmed), bytes(frame[at:at + length]), digest)
        )
        at += length
    if at != len(frame):
        raise InvalidFrame("a read reply with bytes after its last entry")
    return ReadReply(_status(status), tuple(entries))


def encode_read_lac(request_id: int, request: ReadLacRequest) -> bytes:
    """One frame body."""
    flags = _FENCE_FLAG if request.fence else 0
    return _READ_LAC.pack(Kind.READ_LAC, request_id, request.ledger_id, flags)


def decode_read_lac(frame: memoryview) -> ReadLacRequest:
    """See `ReadLacRequest`."""
    _, _, ledger_id, flags = _unpack(_READ_LAC, frame)
    if flags & ~_FENCE_FLAG:
        raise InvalidFrame(f"a LAC read with flags {flags}")
    return ReadLacRequest(LedgerId(ledger_id), bool(flags & _FENCE_FLAG))


def encode_read_lac_reply(request_id: int, reply: ReadLacReply) -> bytes:
    """One frame body."""
    return _READ_LAC_REPLY.pack(
        Kind.READ_LAC_REPLY, request_id, reply.status, reply.last_add_confirmed,
        reply.last_entry_id,
    )


def decode_read_lac_reply(frame: memoryview) -> ReadLacReply:
    """See `ReadLacReply`."""
    _, _, status, confirmed, last_entry = _unpack(_READ_LAC_REPLY, frame)
    if confirmed < -1 or last_entry < -1:
        raise InvalidFrame(f"a LAC reply with LAC {confirmed} and last entry {last_entry}")
    return ReadLacReply(_status(status), EntryId(confirmed), EntryId(last_entry))


def peek(frame: memoryview) -> tuple[int, int]:
    """(kind, request id) of any frame; the kind may be one this version does not know."""
    if len(frame) < _HEADER.size:
        raise InvalidFrame(f"a frame of {len(frame)} bytes is shorter than its header")
    kind, request_id = _HEADER.unpack_from(frame)
    return kind, request_id


_DECODERS: Final[dict[int, Callable[[memoryview], Message]]] = {
    Kind.ADD: decode_add,
    Kind.ADD_REPLY: decode_add_reply,
    Kind.READ: decode_read,
    Kind.READ_REPLY: decode_read_reply,
    Kind.READ_LAC: decode_read_lac,
    Kind.READ_LAC_REPLY: decode_read_lac_reply,
}


def decode_message(frame: memoryview) -> tuple[int, Message]:
    """(request id, message) of any frame but the handshake's."""
    kind, request_id = peek(frame)
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise InvalidFrame(f"a frame of unknown kind {kind}")
    return request_id, decoder(frame)


def _unpack(layout: struct.Struct, frame: memoryview) -> tuple[int, ...]:
    if len(frame) != layout.size:
        raise InvalidFrame(f"a frame of {len(frame)} bytes where {layout.size} belong")
    values: tuple[int, ...] = layout.unpack(frame)
    return values


def _status(value: int) -> Status:
    """A status this version does not know is not known, whatever it was meant to say (R16)."""
    return _STATUSES.get(value, Status.UNKNOWN)
