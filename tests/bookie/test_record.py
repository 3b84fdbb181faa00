"""The stored formats: round trips, golden bytes, and parsers that refuse anything else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bookie.ledger_state import LedgerState, NodeState
from bookie.record import (
    RECORD_HEADER_BYTES,
    CommitHeader,
    FileHeader,
    FileId,
    LogPosition,
    RecordHeader,
    RecordKind,
    encode_commit_header,
    encode_file_header,
    encode_files,
    encode_record_header,
    parse_commit_header,
    parse_file_header,
    parse_files,
    parse_record_header,
)
from bookie.scan import FoundCommit, scan_file
from ledger.wire import entry_digest
from magnetar.errors import InvalidFrame
from magnetar.ids import EntryId, LedgerId
from tests.bookie.memory_disk import MemoryDisk

UNSIGNED = st.integers(0, 2**63 - 1)
FILE_HEADER = FileHeader(FileId(4), 0x0102030405060708)
COMMIT_HEADER = CommitHeader(9, 1, 32, 100, 3, LogPosition(FileId(2), 4096))


def test_golden_headers_stay_readable() -> None:
    file_header = bytes.fromhex(
        "4d41474e455441520000000100000000000000040102030405060708" "98f46157"
    )
    assert encode_file_header(FILE_HEADER)[:28] == file_header[:28]
    assert parse_file_header(encode_file_header(FILE_HEADER)) == FILE_HEADER
    commit = encode_commit_header(COMMIT_HEADER)
    assert commit[:-4].hex() == (
        "c74d540100000000000000090000000000000001000000000000002000000064000000030000000000000002"
        "0000000000001000"
    )
    assert parse_commit_header(commit) == COMMIT_HEADER
    record = encode_record_header(
        RecordKind.ADD, 5, LedgerId(7), EntryId(3), EntryId(2), 0xDEADBEEF
    )
    assert record[:-4].hex() == (
        "010000000000000500000000000000070000000000000003"
        "0000000000000002deadbeef"
    )


def test_golden_states_stay_readable() -> None:
    state = LedgerState(fenced=True, deleted=False, limbo_cleared=2, version=5, changed_ms=1000)
    assert state.encode().hex() == "010100000005000000020000" + "0000000003e8"
    assert LedgerState.decode(state.encode()) == state
    node = NodeState(1, LedgerId(50), LedgerId(60), 3, (LogPosition(FileId(2), 96),))
    assert node.encode().hex() == (
        "01000000030000000100000000000000320000" "00000000003c"
        "00000000000000020000000000000060"
    )
    assert NodeState.decode(node.encode()) == node


@given(UNSIGNED, st.integers(-1, 2**63 - 1), st.binary(max_size=200))
def test_records_round_trip_and_know_their_body(ledger: int, entry: int, body: bytes) -> None:
    lid, eid = LedgerId(ledger), EntryId(entry)
    digest = entry_digest(lid, eid, EntryId(-1), body)
    data = encode_record_header(RecordKind.ADD, len(body), lid, eid, EntryId(-1), digest)
    header = parse_record_header(data)
    assert header == RecordHeader(1, 0, 0, len(body), lid, eid, EntryId(-1), digest)
    assert len(data) == RECORD_HEADER_BYTES
    assert header.body_holds(body)
    assert not header.body_holds(body + b"x")


@given(st.integers(0, RECORD_HEADER_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_header_is_seen(at: int, change: int) -> None:
    data = bytearray(
        encode_record_header(RecordKind.ADD, 5, LedgerId(7), EntryId(3), EntryId(2), 1)
    )
    data[at] ^= change
    with pytest.raises(InvalidFrame):
        parse_record_header(bytes(data))


@given(st.binary(max_size=120))
def test_parsers_refuse_garbage_and_never_fail_otherwise(data: bytes) -> None:
    for parse in (
        parse_file_header, parse_commit_header, parse_record_header, parse_files,
        LedgerState.decode, NodeState.decode,
    ):
        try:
            parse(data)
        except InvalidFrame:
            continue
        assert parse in (parse_files, LedgerState.decode, NodeState.decode)


@given(st.lists(UNSIGNED, max_size=20))
def test_lists_of_files_round_trip(numbers: list[int]) -> None:
    files = tuple(map(FileId, numbers))
    assert parse_files(encode_files(files)) == files


@given(
    st.booleans(), st.booleans(), st.integers(0, 9), st.integers(0, 9), st.booleans(),
    st.booleans(), st.integers(0, 9), st.integers(0, 9),
)
def test_merging_states_is_sticky_in_any_order(
    fenced: bool, deleted: bool, cleared: int, version: int,
    other_fenced: bool, other_deleted: bool, other_cleared: int, other_version: int,
) -> None:
    one = LedgerState(fenced, deleted, cleared, version)
    other = LedgerState(other_fenced, other_deleted, other_cleared, other_version)
    for merged in (one.merged(other), other.merged(one)):
        assert merged.fenced == (fenced or other_fenced)
        assert merged.deleted == (deleted or other_deleted)
        assert merged.version == max(version, other_version)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=4000), st.integers(0, 200))
def test_scanning_garbage_ends_and_covers_the_file(data: bytes, start: int) -> None:
    async def run() -> None:
        disk = MemoryDisk()
        file = await disk.create("log-000000000001")
        file.content = bytearray(data)
        for found in scan_file(file, FileId(2), min(start, len(data))):
            assert not isinstance(found, FoundCommit)

    asyncio.run(run())
