"""What a subscription is doing, and what it waits for, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from broker.state_records import SubscriptionKind


class Block(Enum):
    """What keeps messages from going out; the value is told in words."""

    NO_CONSUMERS = "nobody is attached"
    NO_PERMITS = "consumers have not asked for more"
    CONSUMER_CROWDED = "a consumer's connection does not take more now"
    CONSUMER_BOUND = "a consumer holds as many unacknowledged messages as it may"
    SUBSCRIPTION_BOUND = "as many messages are delivered and not acknowledged as may be"
    FLIGHT_BOUND = "as many entries are delivered and not acknowledged as are tracked"
    LOOK_AHEAD_BOUND = "as many messages are set aside for consumers or keys as may be"
    DRAINING_KEY = "a key waits for its former consumer"
    HELD_KEY = "a key waits for a message of it that failed"
    DELAYED = "messages wait for their time to be delivered again"
    SWITCHING = "the former active consumer has not settled what it has"
    DEAD_LETTER_BOUND = "as many expired entries as may be wait for the dead-letter topic"
    TRACKING_BOUND = (
        "more entries are delivered and not acknowledged than are tracked; the first of them are"
        " not counted as unacknowledged"
    )
    REASONS_BOUND = (
        "the reasons of failed messages take as much as is kept; of further ones only the beginning"
        " outlives this broker"
    )
    DEAD_LETTERING = "messages wait for the dead-letter topic"
    SESSION_SUSPENDED = "this broker has not heard of the metadata for too long"
    HELD_BACK = "the topic's former owner may still be serving it"
    STATE_NOT_DURABLE = "an acknowledgement, an option or a seek is not yet durable"
    UNREADABLE = "the bookies do not give an entry"


@dataclass(frozen=True, slots=True)
class Blocked:
    """One reason, and in words what exactly is concerned."""

    reason: Block
    text: str


@dataclass(frozen=True, slots=True)
class ConsumerSnapshot:
    """One consumer. `active`: of a failover subscription the one that is served, else True."""

    name: str
    consumer_id: int
    permits: int
    unacknowledged_messages: int
    delivered_messages: int
    active: bool = True


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """Numbers are of messages unless named otherwise.

    `backlog` is what is not acknowledged, exactly; the others are parts of it. `unacknowledged`
    is with consumers; `waiting` is to be delivered again (`delayed` of it later, and
    `dead_lettering` to nobody but the dead-letter topic); `set_aside` was passed by others
    because its key or consumer could not take it yet.
    """

    name: str
    kind: SubscriptionKind
    durable: bool
    backlog: int
    unacknowledged: int
    waiting: int
    delayed: int
    dead_lettering: int
    set_aside: int
    held_keys: int
    draining_keys: int
    filter: str
    tags: str
    hold_failed_keys: bool
    max_deliveries: int
    """0: a message is delivered as often as it takes."""
    dead_letter_topic: str
    consumers: tuple[ConsumerSnapshot, ...]
    blocked: tuple[Blocked, ...]
    group: str = ""
    """The broadcast group whose member this is."""
    member: str = ""
