"""What administration answers with about topics, subscriptions and messages.

Field names are those of the messages in `proto/admin.proto`, which `codec` relies on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from magnetar.enums import ConsumerType, InitialPosition
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId

Where = MessageId | InitialPosition | int
"""A place in a topic: at a message, at an end, or at the first message stored at or after a time,
in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the metadata has it. `owner` is the broker that serves it now; empty: none
    does, or it has partitions, each with its own."""

    name: str
    partitions: int = 0
    created_ms: int = 0
    terminated: bool = False
    owner: str = ""
    properties: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class TopicSummary:
    """A topic in a list; 0 partitions: it is not partitioned."""

    name: str
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class TopicPage:
    """Some topics, by name. An empty `next_page` says that there are no more.

    What the `unreachable_brokers` have in memory, non-persistent topics, is missing.
    """

    topics: tuple[TopicSummary, ...]
    next_page: str = ""
    unreachable_brokers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went in or out: since the owner loaded the topic, and a second in the last minute."""

    messages: int = 0
    bytes: int = 0
    messages_per_second: float = 0.0
    bytes_per_second: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.messages + other.messages, self.bytes + other.bytes,
            self.messages_per_second + other.messages_per_second,
            self.bytes_per_second + other.bytes_per_second,
        )


@dataclass(frozen=True, slots=True)
class LedgerStats:
    """A ledger of a topic; `size_bytes` are those of one copy."""

    ledger_id: int
    entries: int
    size_bytes: int
    open: bool
    closed_ms: int


@dataclass(frozen=True, slots=True)
class ProducerStats:
    """A connected producer. `pending_batches` came in and are not acknowledged yet."""

    name: str
    epoch: int
    access_mode: str
    pending_batches: int
    last_sequence_id: int


@dataclass(frozen=True, slots=True)
class ConsumerStats:
    """A connected consumer. `permits`: messages it has room for. `active`: of a failover
    subscription the one that is served, else True."""

    name: str
    consumer_id: int
    permits: int
    delivered_messages: int
    unacknowledged_messages: int
    active: bool = True


@dataclass(frozen=True, slots=True)
class Blocked:
    """What is in the way: `reason` for programs, `text` for people."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class QuotaStats:
    """A topic's backlog and its quota; -1 as a limit: none."""

    backlog_bytes: int
    limit_bytes: int
    oldest_ms: int
    """When its oldest message was stored, in milliseconds since the epoch; 0: not known now."""
    limit_age_ms: int
    policy: str
    slowest_subscription: str
    problem: str
    """Empty while the backlog is within its quota."""
    evicted_messages: int
    """Dropped unconsumed since the owner loaded the topic."""


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """`backlog_messages` are not acknowledged, exactly. Of those some are delivered and
    unacknowledged; some wait to be delivered again (`delayed_messages` of them later), or are on
    their way to the dead-letter topic; some were set aside because their key or consumer could
    not take them yet.

    Of a broadcast group there are `members`, each with a position of its own: its backlog is that
    of the member furthest behind, other numbers are sums.
    """

    name: str
    type: ConsumerType
    durable: bool = True
    created_ms: int = 0
    filter: str = ""
    tags: str = ""
    backlog_messages: int = 0
    unacknowledged_messages: int = 0
    redelivering_messages: int = 0
    outgoing: Traffic = Traffic()
    consumers: tuple[ConsumerStats, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    expired_messages: int = 0
    """Since the owner loaded the topic."""
    dead_lettered_messages: int = 0
    """Since the owner loaded the topic."""
    dropped_messages: int = 0
    """Without having been consumed, since the owner loaded the topic."""
    delayed_messages: int = 0
    dead_lettering_messages: int = 0
    set_aside_messages: int = 0
    held_keys: int = 0
    """Keys that wait for a message of theirs that failed."""
    draining_keys: int = 0
    """Keys that wait for their former consumer."""
    hold_failed_keys: bool = False
    max_deliveries: int = 0
    """0: a message is delivered as often as it takes."""
    dead_letter_topic: str = ""
    members: tuple[SubscriptionStats, ...] = ()


@dataclass(frozen=True, slots=True)
class TopicStats:
    """A topic as its owner sees it now. `messages`, `entries` and `storage_bytes` (of one copy)
    are what is kept. Of a partitioned topic the sums, and `partitions` with what was summed."""

    topic: str
    owner: str = ""
    epoch: int = 0
    created_ms: int = 0
    terminated: bool = False
    incoming: Traffic = Traffic()
    outgoing: Traffic = Traffic()
    messages: int = 0
    entries: int = 0
    storage_bytes: int = 0
    state_bytes: int = 0
    pending_publish_bytes: int = 0
    ledgers: tuple[LedgerStats, ...] = ()
    producers: tuple[ProducerStats, ...] = ()
    waiting_producers: int = 0
    """Those that wait to have the topic to themselves."""
    subscriptions: tuple[SubscriptionStats, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    scheduled_messages: int = 0
    next_due_ms: int = 0
    """When the first scheduled message is due; 0: none waits."""
    expired_messages: int = 0
    dead_lettered_messages: int = 0
    dropped_messages: int = 0
    """Without having been consumed, since the owner loaded the topic."""
    quota: QuotaStats | None = None
    """None of a partitioned topic: each partition has its own."""
    partitions: tuple[TopicStats, ...] = ()


@dataclass(frozen=True, slots=True)
class Holder:
    """What keeps a ledger: `reason` for programs (`due`: nothing, it goes soon), `text` for
    people, and who or until when, where that is a subscription or a retention."""

    reason: str
    text: str
    subscription: str = ""
    until_ms: int = 0


@dataclass(frozen=True, slots=True)
class LedgerSpace:
    """A ledger of a topic: of its messages, its state, its schedule, or deleted and not yet
    gone. -1 entries: not counted; 0 bytes (of one copy): not known."""

    ledger_id: int
    use: str
    entries: int
    size_bytes: int
    last_append_ms: int = 0
    held_by: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """Why a topic takes the space it takes; `storage_bytes` are those of one copy."""

    topic: str
    storage_bytes: int = 0
    ledgers: tuple[LedgerSpace, ...] = ()
    partitions: tuple[SpaceReport, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message looked at without consuming it; what it is called is as in `Message`.

    `data` is cut to a bound where `data_bytes`, the whole size, is more.
    """

    message_id: MessageId
    data: bytes
    data_bytes: int
    topic_name: str
    properties: Mapping[str, str] = field(default_factory=dict, hash=False)
    partition_key: str | None = None
    ordering_key: str | None = None
    tag: str | None = None
    producer_name: str = ""
    sequence_id: int = 0
    publish_timestamp: int = 0
    event_timestamp: int = 0
    append_timestamp: int = 0
    """When the broker stored it, in milliseconds since the epoch."""
    redelivery_count: int = 0
    scheduled_id: ScheduledId | None = None
    """What `send` answered with, for a message that was to be delivered later."""


class PeekedMessages(tuple[StoredMessage, ...]):
    """What a peek found.

    `stopped_at` is empty when these are as many as were asked for, or all there are. Otherwise
    looking ended early, at the message named, of each partition where it did: a call reads 10,000
    entries of one and answers with 4 MiB. What comes after it was not looked at, and a reader that
    starts there sees it.
    """

    stopped_at: tuple[MessageId, ...]

    def __new__(
        cls, messages: Iterable[StoredMessage] = (), stopped_at: Iterable[MessageId] = ()
    ) -> Self:
        made = super().__new__(cls, messages)
        made.stopped_at = tuple(stopped_at)
        return made
