"""A received message: a view on its entry, nothing copied before it is asked for."""

from __future__ import annotations

from magnetar.entry import EntryView
from magnetar.message_id import MessageId, stored_id
from magnetar.scheduled_id import ScheduledId


class ReceivedEntry:
    """A delivered entry and which of its messages wait to be handed out."""

    __slots__ = (
        "entry_id", "epoch", "ledger_id", "meant", "next_index", "partition", "redelivery_count",
        "topic_name", "view",
    )

    def __init__(
        self, topic_name: str, partition: int, ledger_id: int, entry_id: int, view: EntryView,
        meant: list[int] | range, redelivery_count: int, epoch: int,
    ) -> None:
        self.topic_name = topic_name
        self.partition = partition
        self.ledger_id = ledger_id
        self.entry_id = entry_id
        self.view = view
        self.meant = meant
        """Batch indexes to hand out, growing."""
        self.next_index = 0
        """Into `meant`: those before it were handed out."""
        self.redelivery_count = redelivery_count
        self.epoch = epoch

    @property
    def position(self) -> tuple[int, int]:
        return self.ledger_id, self.entry_id


class Message:
    """One message as its producer published it."""

    __slots__ = ("entry", "index")

    def __init__(self, entry: ReceivedEntry, index: int) -> None:
        self.entry = entry
        self.index = index

    @property
    def data(self) -> bytes:
        """The content."""
        return self.entry.view.payload(self.index)

    @property
    def properties(self) -> dict[str, str]:
        return self.entry.view.properties(self.index)

    @property
    def partition_key(self) -> str | None:
        return self.entry.view.partition_key(self.index)

    @property
    def ordering_key(self) -> str | None:
        return self.entry.view.ordering_key(self.index)

    @property
    def tag(self) -> str | None:
        """What consumers that ask for tags choose by."""
        return self.entry.view.tag(self.index)

    @property
    def message_id(self) -> MessageId:
        entry = self.entry
        return MessageId(entry.partition, entry.ledger_id, entry.entry_id, self.index)

    @property
    def publish_timestamp(self) -> int:
        """When its producer sent it, in milliseconds since the epoch."""
        return self.entry.view.origin(self.index).publish_time_ms

    @property
    def event_timestamp(self) -> int:
        """What its producer gave, in milliseconds since the epoch; 0 for nothing."""
        return self.entry.view.event_time_ms(self.index)

    @property
    def topic_name(self) -> str:
        """The topic's full name."""
        return self.entry.topic_name

    @property
    def producer_name(self) -> str:
        return self.entry.view.origin(self.index).producer_name

    @property
    def sequence_id(self) -> int:
        """Its number in its producer's sequence."""
        return self.entry.view.origin(self.index).sequence_id

    @property
    def scheduled_id(self) -> ScheduledId | None:
        """What `send` answered with, for a message that was to be delivered later."""
        place = self.entry.view.origin(self.index).scheduled
        return None if place is None else ScheduledId(self.entry.partition, *place)

    @property
    def redelivery_count(self) -> int:
        """How often it was delivered before; 0 the first time."""
        return self.entry.redelivery_count

    def __repr__(self) -> str:
        return f"Message({self.message_id}, {len(self.data)} bytes)"


def id_of(what: Message | MessageId) -> MessageId:
    """Raises InvalidArgument for what is neither, or the id of no stored message."""
    return what.message_id if isinstance(what, Message) else stored_id(what)
