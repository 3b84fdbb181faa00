"""Stored formats: golden fixtures, unknown fields, newer formats, malformed records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magnetar.errors import InvalidArgument, InvalidFrame, InvalidTopicName, NotSupported
from magnetar.ids import BookieId, BrokerId, EntryId, LedgerId
from magnetar.runtime.network import Address
from metadata import paths
from metadata.bookies import BookieRegistration, decode_bookie, encode_bookie
from metadata.brokers import BrokerRegistration, decode_broker, encode_broker
from metadata.cluster import ClusterRecord, decode_cluster, encode_cluster
from metadata.ledgers import Fragment, LedgerMetadata, LedgerState, decode_ledger, encode_ledger
from metadata.partitioned_topics import (
    INDEX_ENTRY,
    PartitionedTopicRecord,
    decode_any_topic,
    encode_partitioned_topic,
)
from metadata.served_wire import (
    Reply,
    ReplyKind,
    Request,
    RequestKind,
    encode_reply,
    encode_request,
)
from metadata.store import Guard
from metadata.tenants import (
    NamespaceRecord,
    PoliciesRecord,
    TenantRecord,
    decode_namespace,
    decode_policies,
    decode_tenant,
    encode_namespace,
    encode_policies,
    encode_tenant,
)
from metadata.topic_generations import GENERATION
from metadata.topics import LedgerInfo, Owner, ScheduleRun, TopicRecord, decode_topic, encode_topic

GOLDEN = Path(__file__).parent / "golden"
SESSION_ID = 0xABCDEF

B1, B2, B3, B4 = map(BookieId, ("b1", "b2", "b3", "b4"))
CLOSED_LEDGER = LedgerMetadata(
    LedgerId(42), 3, 3, 2, LedgerState.CLOSED,
    (Fragment(EntryId(0), (B1, B2, B3)), Fragment(EntryId(100), (B1, B4, B3), True)),
    EntryId(250), 1_000_000, 3, 3, 1_700_000_000_000, (("topic", "persistent://a/b/c"),),
)  # fmt: skip
TOPIC = TopicRecord(
    "persistent://public/default/orders",
    Owner(BrokerId("broker-1"), "5f3a", 7),
    (LedgerInfo(LedgerId(42), 251, 1_000_000, 0, 1_700_000_001_000, 1_700_000_000_900),
     LedgerInfo(LedgerId(43), first_ordinal=251)),
    (LedgerId(44),), LedgerId(44), 251, 1_700_000_000_000, 3, True, (("owner", "Zoë"),),
)  # fmt: skip

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]

RECORDS: dict[str, tuple[Any, Encode, Decode]] = {
    "ledger_closed": (CLOSED_LEDGER, encode_ledger, decode_ledger),
    "ledger_open": (
        LedgerMetadata(
            LedgerId(2**63 - 1), 1, 1, 1, LedgerState.OPEN, (Fragment(EntryId(0), (B1,)),),
            wanted_ensemble_size=3, wanted_write_quorum=3, created_ms=5,
        ),
        encode_ledger, decode_ledger,
    ),
    "topic": (TOPIC, encode_topic, decode_topic),
    "topic_deleting": (
        replace(TOPIC, deleting=True, doomed_ledgers=(LedgerId(40), LedgerId(41))),
        encode_topic, decode_topic,
    ),
    "topic_scheduled": (
        replace(
            TOPIC, schedule_ledgers=(LedgerId(31), LedgerId(33)), schedule_covered=(31, 7),
            schedule_runs=(ScheduleRun(LedgerId(30), 512, 1 << 25), ScheduleRun(LedgerId(34))),
        ),
        encode_topic, decode_topic,
    ),
    "topic_runs": (
        replace(TOPIC, schedule_covered=(31, 7), schedule_covered_sequence=1 << 40),
        encode_topic, decode_topic,
    ),
    "topic_new": (TopicRecord("persistent://t/n/x"), encode_topic, decode_topic),
    "partitioned_topic": (
        PartitionedTopicRecord(
            "persistent://public/default/orders", 12, 1_700_000_000_000, True, (("owner", "Zoë"),)
        ),
        encode_partitioned_topic, decode_any_topic,
    ),
    "bookie": (
        BookieRegistration(B1, Address("10.0.0.1", 3181), Address("10.0.0.1", 8001), "rack-a",
                           True, "77aa"),
        lambda record: encode_bookie(record, SESSION_ID), decode_bookie,
    ),
    "broker": (
        BrokerRegistration(BrokerId("broker-1"), "5f3a", Address("broker.example", 6650)),
        lambda record: encode_broker(record, SESSION_ID), decode_broker,
    ),
    "tenant": (
        TenantRecord("acme", ("admin", "ops"), ("eu",), (("plan", "gold"),)),
        encode_tenant, decode_tenant,
    ),
    "namespace": (
        NamespaceRecord("acme", "billing", {"retention_minutes": 60, "quorums": [3, 3, 2]}),
        encode_namespace, decode_namespace,
    ),
    "policies": (
        PoliciesRecord({"deduplication": False}), encode_policies, decode_policies,
    ),
    "cluster": (
        ClusterRecord("c0ffee", bytes(range(32)), 1_700_000_000_000),
        encode_cluster, decode_cluster,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records_of_every_release_are_read_and_written_alike(name: str) -> None:
    record, encode, decode = RECORDS[name]
    stored = (GOLDEN / f"{name}.v1.json").read_bytes().rstrip(b"\n")

    assert decode(stored) == record
    assert encode(record) == stored


@pytest.mark.parametrize(
    ("name", "written"),
    [("partitioned_topic_index", INDEX_ENTRY), ("topic_generation", GENERATION)],
)
def test_nodes_that_say_all_by_being_there_keep_their_value(name: str, written: bytes) -> None:
    assert (GOLDEN / f"{name}.v1.json").read_bytes().rstrip(b"\n") == written


def test_a_partitioned_topic_is_never_taken_for_a_log() -> None:
    stored = encode_partitioned_topic(PartitionedTopicRecord("persistent://t/n/x", 3))

    assert decode_any_topic(encode_topic(TOPIC)) == TOPIC
    with pytest.raises(InvalidArgument, match="open persistent://t/n/x-partition-0"):
        decode_topic(stored)


FRAMES = {
    "create": encode_request(
        Request(RequestKind.CREATE, 7, "/ü/b", b"\x00value", -1, True, 2**63, 4000)
    ),
    "hello": encode_request(
        Request(RequestKind.HELLO, 1, value=b"magnetar metadata", version=1, timeout_ms=6000)
    ),
    "guarded": encode_request(
        Request(RequestKind.PUT, 9, "/a/ü", b"value", 3, guard=Guard("/a", 12))
    ),
    "reply": encode_reply(Reply(ReplyKind.OK, 7, b"body", 5, 0, 9, 4000)),
    "refusal": encode_reply(Reply(ReplyKind.ERROR, 8, b"no", code=2)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_of_the_served_store_keep_their_bytes(name: str) -> None:
    golden = json.loads((GOLDEN / "served_frames.v1.json").read_text())

    assert FRAMES[name].hex() == golden[name]


@pytest.mark.parametrize("name", RECORDS)
def test_unknown_fields_are_kept(name: str) -> None:
    record, encode, decode = RECORDS[name]
    extended = {**json.loads(encode(record)), "from_later": {"x": [1, None]}}

    again = json.loads(encode(decode(json.dumps(extended).encode())))

    assert again == extended


@pytest.mark.parametrize("name", RECORDS)
def test_a_newer_format_is_refused_with_what_to_do(name: str) -> None:
    record, encode, decode = RECORDS[name]
    newer = {**json.loads(encode(record)), "v": 2}

    with pytest.raises(NotSupported, match="upgrade"):
        decode(json.dumps(newer).encode())


@pytest.mark.parametrize("name", RECORDS)
def test_malformed_records_are_refused(name: str) -> None:
    record, encode, decode = RECORDS[name]
    fields = json.loads(encode(record))

    for malformed in (b"", b"[]", b"{}", b"\xff", b'{"v":"1"}', b'{"v":true}'):
        with pytest.raises(InvalidFrame):
            decode(malformed)
    for field in fields.keys() - {"v", "session", "owner"}:
        with pytest.raises(InvalidFrame):
            decode(json.dumps({**fields, field: 1.5}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"ack_quorum": 0},
        {"ack_quorum": 4},
        {"write_quorum": 4},
        {"ensemble_size": 4},
        {"fragments": ()},
        {"fragments": (Fragment(EntryId(1), (B1, B2, B3)),)},
        {"fragments": (Fragment(EntryId(0), (B1, B1, B3)),)},
        {"fragments": (Fragment(EntryId(0), (B1, B2, B3)),) * 2},
        {"fragments": (*CLOSED_LEDGER.fragments, Fragment(EntryId(252), (B1, B2, B3)))},
        {"last_entry": EntryId(-2)},
        {"state": LedgerState.OPEN},
    ],
)
def test_ledgers_the_protocol_cannot_make_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        encode_ledger(replace(CLOSED_LEDGER, **change))


def test_an_empty_closed_ledger_is_valid() -> None:
    replace(
        CLOSED_LEDGER, fragments=CLOSED_LEDGER.fragments[:1], last_entry=EntryId(-1)
    ).validate()


def test_an_entry_belongs_to_exactly_one_fragment() -> None:
    first, second = CLOSED_LEDGER.fragments

    assert [CLOSED_LEDGER.fragment_for(EntryId(n)) for n in (0, 99, 100, 250)] == [
        first, first, second, second,
    ]  # fmt: skip
    with pytest.raises(InvalidArgument):
        CLOSED_LEDGER.fragment_for(EntryId(-1))


def test_the_cluster_key_is_not_shown() -> None:
    record = ClusterRecord("id", b"secret" * 6, 0)

    assert "secret" not in repr(record)


def test_ledger_paths_are_chunked_and_reversible() -> None:
    for number in (0, 1, 4095, 4096, 2**24, 2**63 - 1):
        path = paths.ledger(LedgerId(number))
        high, middle, low = path.removeprefix(paths.LEDGERS + "/").split("/")
        assert paths.ledger_id_of(high, middle, low) == number
        assert len(middle) == len(low) == 3
    with pytest.raises(InvalidArgument):
        paths.ledger(LedgerId(-1))


@pytest.mark.parametrize("name", ["a/b", "..", ".", "ü", "%2F", "a b", "\x00", "...", "😀"])
def test_chosen_names_become_one_part_of_a_path(name: str) -> None:
    encoded = paths.encode_name(name)

    assert "/" not in encoded and encoded.strip(".")
    assert encoded.isascii() and encoded.isprintable()
    assert paths.decode_name(encoded) == name


@pytest.mark.parametrize(
    "name", ["orders", "non-persistent://a/b/c", "persistent://a/b", "persistent:///b/c", ""]
)
def test_only_full_persistent_names_have_records(name: str) -> None:
    with pytest.raises(InvalidTopicName):
        paths.topic(name)
