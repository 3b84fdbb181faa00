"""Values of administration and their messages say the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from magnetar.admin import schedule_values, topic_values, values
from magnetar.admin.codec import (
    fill,
    id_message,
    id_of,
    policy_message,
    policy_of,
    read,
    where_message,
    where_of,
)
from magnetar.admin.schedule_values import ScheduledMessage, SchedulePage
from magnetar.admin.topic_values import (
    Blocked,
    ConsumerStats,
    LedgerStats,
    ProducerStats,
    QuotaStats,
    StoredMessage,
    SubscriptionStats,
    TopicStats,
    Traffic,
)
from magnetar.admin.transport import READS
from magnetar.admin.values import EffectivePolicy, NamespaceInfo
from magnetar.enums import ConsumerType, InitialPosition
from magnetar.errors import InvalidArgument
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId
from magnetar.wire import admin_pb2 as pb

KINDS = [
    kind for module in (values, topic_values, schedule_values) for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and kind not in (MessageId, ScheduledId)
]
MESSAGES = {"TopicPage": pb.ListTopicsReply, "SchedulePage": pb.ListScheduledReply}
ENVELOPE = {"error"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_value_and_its_message_have_the_same_fields(kind: Any) -> None:
    message = MESSAGES.get(kind.__name__) or getattr(pb, kind.__name__)

    fields = {field.name for field in dataclasses.fields(kind)}

    assert fields == set(message.DESCRIPTOR.fields_by_name) - ENVELOPE


STATS = TopicStats(
    "t", "b1", 3, 4, True, Traffic(1, 2, 0.5, 1.5), Traffic(), -1, 5, 6, 7, 8,
    (LedgerStats(1, -1, 0, True, 0),), (ProducerStats("p", 1, "shared", 2, -1),),
    1,
    (SubscriptionStats(
        "s", ConsumerType.KeyShared, consumers=(ConsumerStats("c", 1, 2, 3, 4, False),),
        members=(SubscriptionStats("m", ConsumerType.Broadcast),),
    ),),
    (Blocked("bookies", "none"),), 5, 6, 7, 8, 9,
    QuotaStats(1, -1, 0, -1, "producer_hold", "s", "", 0),
    (TopicStats("t-partition-0"), TopicStats("t-partition-1")),
)
MESSAGE = StoredMessage(MessageId(-1, 1, 2, 3), b"\x00", 9, "t", {"a": "b"}, None, "", "tag")
LATE = dataclasses.replace(MESSAGE, scheduled_id=ScheduledId(-1, 3, 4, 5))
PAGE = SchedulePage((ScheduledMessage(ScheduledId(0, 1, 2, 3), 9, "p", 1, 2, 3, None),), "0/x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (STATS, pb.TopicStats), (MESSAGE, pb.StoredMessage),
        (LATE, pb.StoredMessage), (PAGE, pb.ListScheduledReply),
        (NamespaceInfo("a/b", {"x": -1, "y": True, "z": "w"}), pb.NamespaceInfo),
        (EffectivePolicy("x", False, "topic", "m"), pb.EffectivePolicy),
        (EffectivePolicy("x", 0, "topic", "m"), pb.EffectivePolicy),
    ],
)
def test_a_value_survives_the_way_over_the_wire(value: Any, message: Any) -> None:
    sent = message()
    fill(sent, value)

    assert read(type(value), message.FromString(sent.SerializeToString())) == value


@pytest.mark.parametrize(
    "where", [InitialPosition.Earliest, InitialPosition.Latest, 17, MessageId(2, 3, 4, 5)]
)
def test_places_survive_the_way_over_the_wire(where: Any) -> None:
    assert where_of(where_message(where)) == where


def test_the_ends_are_message_ids_too() -> None:
    assert where_of(where_message(MessageId.earliest)) is InitialPosition.Earliest
    assert where_of(where_message(MessageId.latest)) is InitialPosition.Latest


@pytest.mark.parametrize("where", [0, -1, True, 1 << 70, "x", None])
def test_what_is_no_place_is_refused(where: Any) -> None:
    with pytest.raises(InvalidArgument):
        where_message(where)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        where_of(pb.Where(publish_time_ms=-5))
    with pytest.raises(InvalidArgument):
        where_of(pb.Where())  # a seek there would give up the whole backlog
    with pytest.raises(InvalidArgument):
        id_message(MessageId(0, 1 << 70, 0, 0))
    with pytest.raises(InvalidArgument):
        policy_message(1 << 70)
    with pytest.raises(InvalidArgument):
        policy_message(1.5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        policy_of(pb.PolicyValue())


def test_ids_survive() -> None:
    assert id_of(id_message(MessageId(-1, 5, 6, -1))) == MessageId(-1, 5, 6, -1)


GOLDEN = Path(__file__).parent / "golden"
KEPT = {
    "admin_topic_stats": (STATS, pb.TopicStats), "admin_stored_message": (LATE, pb.StoredMessage),
    "admin_scheduled": (PAGE, pb.ListScheduledReply),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_an_older_broker_says_stays_readable(name: str) -> None:
    value, message = KEPT[name]

    stored = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())

    assert read(type(value), message.FromString(stored)) == value


def test_every_reply_has_its_error_in_the_first_field() -> None:
    service = pb.DESCRIPTOR.services_by_name["Admin"]

    for method in service.methods:
        (first,) = [one for one in method.output_type.fields if one.number == 1]
        assert (first.name, first.message_type.name) == ("error", "Error"), method.name


def test_what_only_reads_is_known_by_its_name() -> None:
    names = {method.name for method in pb.DESCRIPTOR.services_by_name["Admin"].methods}

    assert names >= READS
    assert {name for name in names if name.startswith(("List", "Get", "Count", "Peek"))} <= READS
