"""The claims on the ids of messages that went to several partitions."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId
from magnetar.ticket import Ticket, Tickets


class PartitionedTickets(Tickets):
    """As Tickets, in the order in which the messages were given."""

    __slots__ = ("_pieces",)

    def __init__(self, pieces: Sequence[Tickets | Ticket]) -> None:
        super().__init__((), -1)
        self._pieces = pieces

    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return all(piece.done() for piece in self._pieces)

    def __len__(self) -> int:
        return sum(1 if isinstance(piece, Ticket) else len(piece) for piece in self._pieces)

    def __iter__(self) -> Iterator[Ticket]:
        for piece in self._pieces:
            if isinstance(piece, Ticket):
                yield piece
            else:
                yield from piece

    def __await__(self) -> Generator[object, None, list[MessageId | ScheduledId]]:
        found: list[MessageId | ScheduledId] = []
        for piece in self._pieces:
            if isinstance(piece, Ticket):
                found.append((yield from piece.__await__()))
            else:
                found += yield from piece.__await__()
        return found
