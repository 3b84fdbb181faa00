"""Claims on the ids of messages, for any thread."""

from __future__ import annotations

from collections.abc import Iterator

from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId
from magnetar.sync.loop_thread import THREAD
from magnetar.ticket import Ticket as AsyncTicket
from magnetar.ticket import Tickets as AsyncTickets


class Ticket:
    """The claim on one message's id, at no cost until it is asked."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: AsyncTicket) -> None:
        self._ticket = ticket

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._ticket.done()

    def result(self) -> MessageId | ScheduledId:
        """Wait until the message is durable; its id, any number of times, or what went wrong. It
        is a ScheduledId for a message that is to be delivered later."""
        async def work() -> MessageId | ScheduledId:
            return await self._ticket

        return THREAD.run(work())


class Tickets:
    """The claims on the ids of many messages, in their order; ask for all, or each by itself."""

    __slots__ = ("_tickets",)

    def __init__(self, tickets: AsyncTickets) -> None:
        self._tickets = tickets

    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._tickets.done()

    def result(self) -> list[MessageId | ScheduledId]:
        """Wait until all are durable; raises the first error among them."""
        async def work() -> list[MessageId | ScheduledId]:
            return await self._tickets

        return THREAD.run(work())

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[Ticket]:
        return map(Ticket, self._tickets)
