"""What `send` gives back: a claim on the message's id, at no cost until it is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial

from magnetar.batch import Batch
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId


def settled(batch: Batch) -> asyncio.Future[None]:
    """The batch's one future, done when its outcome is known; made when first asked for."""
    future: asyncio.Future[None] | None = batch.waiter
    if future is None:
        future = batch.waiter = asyncio.get_running_loop().create_future()
        if batch.outcome is not None:
            future.set_result(None)
    return future


def announce(batch: Batch) -> None:
    """Wake whoever waits for the batch, and tell whoever observes it."""
    future: asyncio.Future[None] | None = batch.waiter
    if future is not None and not future.done():
        future.set_result(None)
    if batch.observers is not None:
        observers, batch.observers = batch.observers, None
        for tell in observers:
            tell()


class Ticket:
    """Await it for the message's id, any number of times; raises what went wrong. It is a
    MessageId, or a ScheduledId for a message that is to be delivered later."""

    __slots__ = ("_batch", "_index", "_partition")

    def __init__(self, batch: Batch, index: int, partition: int) -> None:
        self._batch = batch
        self._index = index
        self._partition = partition

    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return self._batch.outcome is not None

    @property
    def collecting(self) -> bool:
        """Whether the message's batch has not left yet."""
        return not self._batch.count and self._batch.outcome is None

    def result(self) -> MessageId | ScheduledId:
        """What awaiting it gives or raises; only when it is done."""
        return self._batch.message_id(self._partition, self._index)

    def add_done_callback(self, tell: Callable[[Ticket], object]) -> None:
        """Call it with this ticket once it is done, at once if it is; it must not raise."""
        batch = self._batch
        if batch.outcome is not None:
            tell(self)
            return
        if batch.observers is None:
            batch.observers = []
        batch.observers.append(partial(tell, self))

    def __await__(self) -> Generator[object, None, MessageId | ScheduledId]:
        if self._batch.outcome is None:
            yield from asyncio.shield(settled(self._batch))
        return self._batch.message_id(self._partition, self._index)


class Tickets:
    """The claims on the ids of many messages, in their order; await it for all of them."""

    __slots__ = ("_partition", "_parts")

    def __init__(self, parts: Sequence[tuple[Batch, int, int]], partition: int) -> None:
        self._parts = parts
        self._partition = partition

    def done(self) -> bool:
        """Whether awaiting it would not wait."""
        return all(batch.outcome is not None for batch, _, _ in self._parts)

    def __len__(self) -> int:
        return sum(count for _, _, count in self._parts)

    def __iter__(self) -> Iterator[Ticket]:
        for batch, first, count in self._parts:
            for index in range(first, first + count):
                yield Ticket(batch, index, self._partition)

    def __await__(self) -> Generator[object, None, list[MessageId | ScheduledId]]:
        for batch, _, _ in self._parts:
            if batch.outcome is None:
                yield from asyncio.shield(settled(batch))
        return [
            batch.message_id(self._partition, index)
            for batch, first, count in self._parts
            for index in range(first, first + count)
        ]
