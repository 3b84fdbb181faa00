"""The entry format: golden bytes for ever, and parsers that only ever raise InvalidFrame."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magnetar.entry import (
    Codec,
    Columns,
    EntryView,
    Flag,
    Origin,
    Prefix,
    Provenance,
    ScheduleMark,
    SchedulePlace,
    check,
    encode_batch,
    encode_prefix,
    encode_provenance,
    gather,
    parse_header,
    parse_prefix,
    parse_provenance,
    select,
)
from magnetar.errors import InvalidArgument, InvalidFrame

GOLDEN = Path(__file__).parent / "golden"
FULL = Columns(
    sequence_ids=[3, 5, 9], event_times_ms=[0, 7, 0], deliver_at_ms=[0, 0, 11],
    partition_keys=["k", None, ""], ordering_keys=[None, "o", None], tags=["red", None, None],
    properties=[{"a": "1", "b": ""}, None, {"ü": "☃"}],
)
PAYLOADS = [b"first", b"", b"third" * 20]


def full(codec: Codec = Codec.NONE) -> bytes:
    return encode_batch("pröducer", 3, PAYLOADS, publish_time_ms=1234, codec=codec, columns=FULL)


GOLDEN_ENTRIES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: encode_batch("p", 0, [b"a", b"b"], publish_time_ms=1),
    "lengths": lambda: encode_batch("p", 10, [b"a", b"bcd"], publish_time_ms=1),
    "full": full,
    "expiring": lambda: encode_batch(
        "p", 4, [b"a", b"b"], publish_time_ms=1,
        columns=Columns(expires_after_ms=[0, 500], tags=["t", None], provenance=[None, "1:2:3"]),
    ),
    "derived": lambda: select(EntryView(full()), [0, 2]),
    "gathered": lambda: gather(
        [(EntryView(full()), 2), (EntryView(GOLDEN_ENTRIES["lengths"]()), 1)],
        [SchedulePlace(7, 8, 9), None],
    ),
}
GOLDEN_PREFIXES = {
    "prefix": Prefix(3, 1_700_000_000_000, 42),
    "prefix_full": Prefix(3, 4, 5, 6, Origin("west", 7, 8)),
    "prefix_scheduled": Prefix(3, 4, 5, mark=ScheduleMark(1_800_000_000_000, 1 << 40)),
    "prefix_everything": Prefix(3, 4, 5, 6, Origin("west", 7, 8), ScheduleMark(9, 10)),
}


@pytest.mark.parametrize("name", sorted(GOLDEN_ENTRIES))
def test_golden_entries(name: str) -> None:
    stored = bytes.fromhex((GOLDEN / f"entry_{name}.hex").read_text())

    assert GOLDEN_ENTRIES[name]() == stored
    check(stored)


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD])
def test_golden_compressed_entries_stay_readable(codec: Codec) -> None:
    stored = bytes.fromhex((GOLDEN / f"entry_{codec.name.lower()}.hex").read_text())

    assert EntryView(stored).payloads() == PAYLOADS


def test_how_long_a_message_may_wait_and_whence_it_came_survive_a_cut() -> None:
    view = EntryView(GOLDEN_ENTRIES["expiring"]())

    cut = EntryView(select(view, [1]))

    assert view.header.expires and [view.expires_after_ms(index) for index in (0, 1)] == [0, 500]
    assert (cut.expires_after_ms(0), cut.provenance(0), cut.tag(0)) == (500, "1:2:3", None)


def test_messages_of_several_entries_come_together_with_all_they_had() -> None:
    view = EntryView(GOLDEN_ENTRIES["gathered"]())

    assert view.payloads() == [PAYLOADS[2], b"bcd"]
    assert view.origin(0) == Provenance("pröducer", 9, 1234, SchedulePlace(7, 8, 9))
    assert view.origin(1) == Provenance("p", 11, 1)
    assert (view.properties(0), view.properties(1)) == ({"ü": "☃"}, {})
    assert (view.partition_key(0), view.partition_key(1)) == ("", None)
    assert not view.header.delayed and view.header.flags & Flag.DERIVED
    assert view.checksum(1) == EntryView(GOLDEN_ENTRIES["lengths"]()).checksum(1)


def test_gathering_again_keeps_where_messages_came_from() -> None:
    once = EntryView(GOLDEN_ENTRIES["gathered"]())

    twice = EntryView(gather([(once, 1), (once, 0)], [None, None], deliver_at_ms=[5, 6]))

    assert [twice.origin(index) for index in (1, 0)] == [once.origin(0), once.origin(1)]
    assert [*twice.delivery_times_ms()] == [5, 6]


@pytest.mark.parametrize("codec", list(Codec))
def test_what_was_compressed_stays_so_when_gathered(codec: Codec) -> None:
    view = EntryView(full(codec))

    gathered = EntryView(gather([(view, 2), (view, 0)], [None, None]))

    assert gathered.payloads() == [PAYLOADS[2], PAYLOADS[0]]
    assert gathered.header.codec is codec
    assert [gathered.checksum(n) for n in (0, 1)] == [view.checksum(n) for n in (2, 0)]


@pytest.mark.parametrize("origin", [
    Provenance("a:b", 0, 0), Provenance("", 2**63 - 1, 1, SchedulePlace(1, 0, 3)),
])
def test_provenance_is_read_back(origin: Provenance) -> None:
    assert parse_provenance(encode_provenance(origin)) == origin


@pytest.mark.parametrize("text", ["", "S:1:2:3:p", "S:1:2:3.4.x:p", "M:x:2::p", "1:2:3"])
def test_a_provenance_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidFrame):
        parse_provenance(text)


def test_sizes_of_messages_count_all_their_parts() -> None:
    view = EntryView(full())

    assert [view.message_bytes(index) for index in range(3)] == [
        len(b"firstkred") + len(b"ab1") + 2 + 4 * 4, 1, 100 + len("ü☃".encode()) + 2 + 2 * 4,
    ]


@pytest.mark.parametrize("name", sorted(GOLDEN_PREFIXES))
def test_golden_prefixes(name: str) -> None:
    stored = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())

    assert encode_prefix(GOLDEN_PREFIXES[name]) == stored
    prefix, rest = parse_prefix(stored + b"rest")
    assert (prefix, bytes(rest)) == (GOLDEN_PREFIXES[name], b"rest")


@pytest.mark.parametrize("codec", list(Codec))
def test_everything_comes_back(codec: Codec) -> None:
    view = EntryView(full(codec))

    assert view.header.codec is codec
    assert (view.header.producer_name, view.header.publish_time_ms) == ("pröducer", 1234)
    assert (view.header.first_sequence_id, view.header.last_sequence_id) == (3, 9)
    assert view.header.delayed
    assert view.payloads() == PAYLOADS == [view.payload(index) for index in range(3)]
    for index in range(3):
        assert view.sequence_id(index) == [3, 5, 9][index]
        assert view.event_time_ms(index) == [0, 7, 0][index]
        assert view.deliver_at_ms(index) == [0, 0, 11][index]
        assert view.partition_key(index) == ["k", None, ""][index]
        assert view.ordering_key(index) == [None, "o", None][index]
        assert view.key(index) == ["k", "o", ""][index]
        assert view.tag(index) == ["red", None, None][index]
        assert view.properties(index) == [{"a": "1", "b": ""}, {}, {"ü": "☃"}][index]


def test_absent_columns_cost_nothing() -> None:
    view = EntryView(encode_batch("p", 5, [b"ab", b"cd"], publish_time_ms=1))

    assert view.header.flags == Flag.CHECKSUMS
    assert (view.sequence_id(1), view.key(1), view.properties(1)) == (6, None, {})


def test_a_selection_keeps_messages_whole() -> None:
    source = EntryView(full(Codec.LZ4))
    view = EntryView(select(source, [0, 2]))

    assert view.payloads() == [PAYLOADS[0], PAYLOADS[2]]
    assert [view.checksum(0), view.checksum(1)] == [source.checksum(0), source.checksum(2)]
    assert (view.sequence_id(1), view.properties(1), view.tag(0)) == (9, {"ü": "☃"}, "red")
    assert view.header.flags & Flag.DERIVED
    with pytest.raises(InvalidArgument):
        select(source, [])


def test_a_derived_entry_is_checked_message_by_message() -> None:
    columns = Columns(checksums=[1, 2])
    forged = encode_batch(
        "p", 0, [b"a", b"b"], publish_time_ms=1, columns=columns, derived=True)

    with pytest.raises(InvalidFrame):
        EntryView(forged).payloads()


def resealed(entry: bytes) -> bytes:
    from crc32c import crc32c

    return crc32c(entry[4:]).to_bytes(4, "little") + entry[4:]


@pytest.mark.parametrize("codec", [Codec.LZ4, Codec.ZSTD])
def test_a_decompression_bomb_is_refused(codec: Codec) -> None:
    entry = bytearray(encode_batch("p", 0, [bytes(1 << 20)], publish_time_ms=1, codec=codec))
    entry[36:40] = (63 << 20).to_bytes(4, "little")

    with pytest.raises(InvalidFrame):
        EntryView(resealed(bytes(entry))).payloads()


def read_everything(entry: bytes) -> None:
    view = EntryView(entry)
    view.payloads()
    for index in range(view.count):
        view.payload(index)
        view.sequence_id(index)
        view.event_time_ms(index)
        view.deliver_at_ms(index)
        view.key(index)
        view.tag(index)
        view.properties(index)
        view.checksum(index)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_is_invalid_or_harmless(data: st.DataObject) -> None:
    entry = bytearray(full(data.draw(st.sampled_from(list(Codec)))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(entry) - 1))
        entry[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 10))
    damaged = bytes(entry[:len(entry) - cut] if cut < 5 else entry)
    if data.draw(st.booleans()):
        damaged = resealed(damaged)
    with contextlib.suppress(InvalidFrame):
        read_everything(damaged)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_invalid(junk: bytes) -> None:
    for parse in (parse_header, check, EntryView, parse_prefix):
        try:
            parse(junk)
        except InvalidFrame:
            continue
        assert parse is parse_header


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=50), min_size=1, max_size=20),
    st.integers(0, 2**40),
    st.sampled_from(list(Codec)),
)
def test_any_payloads_come_back(payloads: list[bytes], first: int, codec: Codec) -> None:
    view = EntryView(encode_batch("p", first, payloads, publish_time_ms=1, codec=codec))

    assert view.payloads() == payloads
    assert view.header.last_sequence_id == first + len(payloads) - 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(0, 255))
def test_a_damaged_prefix_is_invalid(at: int, value: int) -> None:
    stored = bytearray(encode_prefix(GOLDEN_PREFIXES["prefix_full"]) + b"rest")
    at %= len(stored) - 4
    if stored[at] == value:
        return
    stored[at] = value

    with pytest.raises(InvalidFrame):
        parse_prefix(stored)
