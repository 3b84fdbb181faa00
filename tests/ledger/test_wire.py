"""The bookie plane's frames: what is encoded is decoded, and nothing else passes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import wire
from ledger.wire import (
    AddReply,
    AddRequest,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    StoredEntry,
)
from magnetar.errors import InvalidFrame
from magnetar.ids import EntryId, LedgerId

GOLDEN = Path(__file__).parent / "golden" / "bookie_frames.txt"
LEDGERS = st.integers(0, 2**63 - 1).map(LedgerId)
ENTRIES = st.integers(0, 2**62).map(EntryId)
STATUSES = st.sampled_from(list(Status))


def add(body: bytes = b"body", recovery: bool = False) -> AddRequest:
    return AddRequest.make(LedgerId(7), EntryId(5), EntryId(3), body, recovery)


def stored(entry_id: int, body: bytes) -> StoredEntry:
    digest = wire.entry_digest(LedgerId(7), EntryId(entry_id), EntryId(entry_id - 1), body)
    return StoredEntry(EntryId(entry_id), EntryId(entry_id - 1), body, digest)


def frames() -> dict[str, bytes]:
    reply = ReadReply(Status.OK, (stored(5, b"five"), stored(6, b"")))
    return {
        "add": b"".join(wire.encode_add(9, add())),
        "recovery add": b"".join(wire.encode_add(10, add(b"", recovery=True))),
        "add reply": wire.encode_add_reply(9, Status.OK, 3),
        "read": wire.encode_read(11, ReadRequest(LedgerId(7), EntryId(5), 100, 65536, True)),
        "read reply": b"".join(bytes(part) for part in wire.encode_read_reply(11, reply)),
        "empty read reply": b"".join(
            bytes(part) for part in wire.encode_read_reply(12, ReadReply(Status.NO_ENTRY))
        ),
        "read lac": wire.encode_read_lac(13, ReadLacRequest(LedgerId(7), True)),
        "read lac reply": wire.encode_read_lac_reply(
            13, ReadLacReply(Status.OK, EntryId(4), EntryId(6))
        ),
    }


def test_golden_frames_never_change() -> None:
    kept = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines() if line)
    assert {name: frame.hex() for name, frame in frames().items()} == kept


def test_each_golden_frame_decodes() -> None:
    for name, frame in frames().items():
        request_id, _ = wire.decode_message(memoryview(frame))
        assert request_id >= 9, name


@given(LEDGERS, ENTRIES, st.binary(max_size=200), st.booleans())
def test_an_add_comes_back(
    ledger_id: LedgerId, entry_id: EntryId, body: bytes, recovery: bool
) -> None:
    request = AddRequest.make(ledger_id, entry_id, EntryId(entry_id - 1), body, recovery)
    header, encoded_body = wire.encode_add(4, request)
    decoded = wire.decode_add(memoryview(header + encoded_body))
    assert (decoded.ledger_id, decoded.entry_id, decoded.recovery, bytes(decoded.body)) == (
        ledger_id, entry_id, recovery, body
    )
    assert decoded.verify()


@given(LEDGERS, ENTRIES, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_a_read_comes_back(
    ledger_id: LedgerId, first: EntryId, entries: int, size: int, fence: bool
) -> None:
    request = ReadRequest(ledger_id, first, entries, size, fence)
    assert wire.decode_read(memoryview(wire.encode_read(1, request))) == request


@given(STATUSES, ENTRIES, st.lists(st.binary(max_size=50), max_size=5))
def test_a_read_reply_comes_back(status: Status, first: EntryId, bodies: list[bytes]) -> None:
    entries = tuple(stored(first + at, body) for at, body in enumerate(bodies))
    reply = ReadReply(status, entries)
    frame = b"".join(bytes(part) for part in wire.encode_read_reply(1, reply))
    assert wire.decode_read_reply(memoryview(frame)) == reply


@given(STATUSES, st.integers(1, 2**32 - 1))
def test_an_add_reply_answers_a_range(status: Status, count: int) -> None:
    frame = wire.encode_add_reply(100, status, count)
    assert wire.peek(memoryview(frame)) == (wire.Kind.ADD_REPLY, 100)
    assert wire.decode_add_reply(memoryview(frame)) == AddReply(status, count)


@given(st.binary(max_size=80))
def test_random_bytes_decode_or_are_refused(frame: bytes) -> None:
    with contextlib.suppress(InvalidFrame):
        wire.decode_message(memoryview(frame))


@given(st.sampled_from(sorted(frames())), st.data())
def test_truncated_frames_never_raise_anything_but_invalid_frame(
    name: str, data: st.DataObject
) -> None:
    frame = frames()[name]
    cut = frame[: data.draw(st.integers(0, len(frame) - 1))]
    try:
        wire.decode_message(memoryview(cut))
    except InvalidFrame:
        return
    assert name in ("add", "recovery add"), "only an add's body may be of any length"
    assert not wire.decode_add(memoryview(cut)).verify()


def test_a_misplaced_or_changed_body_fails_its_digest() -> None:
    request = add()
    request.body = b"bodi"
    assert not request.verify()
    assert not stored(5, b"five").verify(LedgerId(8))
    assert stored(5, b"five").verify(LedgerId(7))


def test_an_unknown_status_is_unknown() -> None:
    frame = bytearray(wire.encode_add_reply(1, Status.OK))
    frame[9] = 200
    assert wire.decode_add_reply(memoryview(frame)).status is Status.UNKNOWN


def test_a_read_reply_with_a_gap_is_refused() -> None:
    reply = ReadReply(Status.OK, (stored(5, b"five"), stored(7, b"seven")))
    frame = b"".join(bytes(part) for part in wire.encode_read_reply(1, reply))
    with pytest.raises(InvalidFrame):
        wire.decode_read_reply(memoryview(frame))
