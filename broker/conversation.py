"""What a broker and its clients say to each other, free of any transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from broker.selector import MessageFilter
from broker.state_records import SubscriptionKind
from magnetar.errors import ConnectionFailed, InvalidArgument, InvalidFrame, MagnetarError

WHOLE_ENTRY = -1
"""As a batch index: all messages of the entry."""


class ChecksumMismatch(InvalidFrame):
    """A batch was damaged on its way here; send it again."""


class NotServing(ConnectionFailed):
    """This broker is joining or leaving the cluster, or has no session: ask another one."""


class HoldFailedKeys(IntEnum):
    """Whether later messages of a key wait for one that failed."""

    DEFAULT = 0
    HOLD = 1
    PASS = 2


class ConsumerEvent(Enum):
    """What a consumer is told beside its messages."""

    BECAME_ACTIVE = "it is the one that is served"
    STANDS_BY = "another one is served"
    END_OF_TOPIC = "the topic is terminated, and everything was delivered"


class InitialPosition(IntEnum):
    """Where a subscription without a cursor begins."""

    LATEST = 0
    EARLIEST = 1


class AccessMode(IntEnum):
    """Who else may publish to the topic."""

    SHARED = 0
    EXCLUSIVE = 1
    WAIT_FOR_EXCLUSIVE = 2
    EXCLUSIVE_WITH_FENCING = 3


@dataclass(frozen=True, slots=True)
class MessagePosition:
    """Messages of an entry as clients name them.

    `batch_index` -1 is the whole entry; a `batch_mask` other than 0 takes the place of the index
    and has a bit for every message that is meant.
    """

    ledger_id: int
    entry_id: int
    batch_index: int = WHOLE_ENTRY
    batch_mask: int = 0

    def mask_of(self, count: int) -> int:
        """The messages meant of an entry with `count`; raises InvalidArgument beyond them."""
        if self.batch_mask:
            if self.batch_mask.bit_length() <= count:
                return self.batch_mask
        elif self.batch_index == WHOLE_ENTRY:
            return (1 << count) - 1
        elif 0 <= self.batch_index < count:
            return 1 << self.batch_index
        raise InvalidArgument(
            f"{self.ledger_id}:{self.entry_id} has {count} messages, fewer than named"
        )


@dataclass(slots=True)
class Receipt:
    """The fate of one batch. `entry_id` -1 without an error: stored earlier, its id forgotten.

    `scheduled`: it is to be delivered later, and the ids are those of the schedule."""

    first_sequence_id: int
    count: int
    ledger_id: int = 0
    entry_id: int = -1
    error: MagnetarError | None = None
    settled: bool = False
    scheduled: bool = False


class Delivery(NamedTuple):
    """An entry for a consumer, as stored. `skip`: bitmap of batch indexes that are not meant.

    With `picked` the entry was cut, and holds the messages of that bitmap only.
    """

    ledger_id: int
    entry_id: int
    entry: bytes
    skip: bytes
    redelivery_count: int
    epoch: int
    picked: bytes = b""


@dataclass(frozen=True, slots=True)
class Access:
    """What a producer asks for. `topic_epoch` is the one it was told before, 0 if never;
    `waiting` is called when it has to wait for its turn."""

    mode: AccessMode = AccessMode.SHARED
    topic_epoch: int = 0
    waiting: Callable[[], None] = lambda: None


SHARED_ACCESS = Access()


@dataclass(frozen=True, slots=True)
class OpenConsumer:
    """How a consumer opens. An empty `subscription` makes it a reader, which keeps no cursor."""

    topic: str
    subscription: str
    kind: SubscriptionKind = SubscriptionKind.EXCLUSIVE
    initial_position: InitialPosition = InitialPosition.LATEST
    durable: bool = True
    consumer_name: str = ""
    start: MessagePosition | None = None
    start_inclusive: bool = False
    filter: MessageFilter | None = None
    start_time_ms: int = 0
    """A new subscription begins with the first message stored then or later; 0 does not count."""
    hold_failed_keys: HoldFailedKeys = HoldFailedKeys.DEFAULT
    max_deliveries: int = 0
    """After so many a message goes to the dead-letter topic; 0: never."""
    dead_letter_topic: str = ""
    """Empty: the default one."""
    must_exist: bool = False
    """The topic is not made; see TopicCatalog.obtain."""


@dataclass(frozen=True, slots=True)
class LookupResult:
    """`relay`: the owner lives but the client cannot reach it; open here and ask for a relay.

    With `partitions` there is no owner: each partition is to be looked up.
    """

    owner_address: str
    topic: str
    relay: bool = False
    partitions: int = 0


OnReceipts = Callable[[list[Receipt]], None]
"""Takes receipts in the order of the batches, several at a time."""

OnDeliveries = Callable[[list[Delivery]], None]
"""Takes the deliveries of one frame."""

OnEvent = Callable[[ConsumerEvent], None]

OnEnded = Callable[[MagnetarError], None]
"""The broker ends the session; called at most once, and never after the client's own close."""
