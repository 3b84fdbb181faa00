"""A producer of a partitioned topic: one producer a partition, and a choice for each message."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any, Final

from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.backoff import Backoff
from magnetar.batch import OVERHEAD_BYTES
from magnetar.closable import Closable
from magnetar.connection import Connections
from magnetar.entry import EntryView
from magnetar.enums import HashingScheme, PartitionsRoutingMode
from magnetar.errors import AlreadyClosed, MagnetarError, ProducerQueueFull
from magnetar.murmur3 import murmur3_32
from magnetar.partitioned_tickets import PartitionedTickets
from magnetar.producer import Producer, as_bytes
from magnetar.producer_core import ROOM_SHARE
from magnetar.routing import MessageRouter, OutgoingMessage, RoundRobin, chosen, hash_of
from magnetar.scheduled_id import ScheduledId
from magnetar.ticket import Ticket, Tickets
from magnetar.together import all_done
from magnetar.topic import TopicName
from magnetar.topic_schedule import TopicSchedule
from magnetar.topic_watch import TopicWatches
from magnetar.waiters import Waiters

OPENED_AT_ONCE: Final = 16
PIECE_BYTES: Final = 1 << 20
"""Of `send_many`: what is queued between two looks at how much waits already."""

_log = logging.getLogger(__name__)

MakeProducer = Callable[[TopicName], Producer]


@dataclass(frozen=True, slots=True)
class Routing:
    """How a producer chooses partitions."""

    mode: PartitionsRoutingMode = PartitionsRoutingMode.RoundRobinDistribution
    hashing: HashingScheme = HashingScheme.Murmur3_32Hash
    router: MessageRouter | None = None
    repeatable: bool = False
    """The same messages sent again go where they went: sequence ids were asked for."""
    batching: bool = True
    one_first: bool = False
    """Others may want the topic for themselves too: who has the first partition has it."""


class PartitionedProducer(Closable):
    """Publishes to all partitions of a topic. Made by `Client.create_producer`.

    Order holds within a partition, so for messages of one key. Sequence ids count within a
    partition. Partitions that the topic gets later are used for what is sent after they were
    noticed, within seconds; keys are then spread anew.
    """

    def __init__(
        self, connections: Connections, topic: TopicName, partitions: int, make: MakeProducer,
        watches: TopicWatches, routing: Routing, *, producer_name: str, max_pending_bytes: int,
    ) -> None:
        self._connections = connections
        self._topic = topic
        self._schedule = TopicSchedule(connections, topic.full)
        self._wanted = partitions
        self._make = make
        self._watches = watches
        self._router = routing.router
        self._hash = hash_of(routing.hashing)
        self._one_first = routing.one_first
        self._turns: RoundRobin | None = None
        self._single = -1
        if routing.mode is PartitionsRoutingMode.UseSinglePartition:
            named = murmur3_32(producer_name) if producer_name else None
            self._single = (
                connections.random.randrange(partitions) if named is None else named % partitions)
        else:
            first = 0 if routing.repeatable else connections.random.randrange(partitions)
            self._turns = RoundRobin(first, even=routing.repeatable)
            if not routing.batching and not routing.repeatable:
                self._turns.run_messages = 1
        self._producers: tuple[Producer, ...] = ()
        self._most_bytes = max_pending_bytes
        self._room_bytes = max_pending_bytes
        """Known to be free: what became free since is found when this is used up."""
        self._for_room = Waiters()
        self._growing: asyncio.Task[None] | None = None
        self._unwatch: Callable[[], None] | None = None
        self._end: MagnetarError | None = None

    # What it is.

    @property
    def topic(self) -> str:
        """The topic's full name, without a partition."""
        return self._topic.full

    @property
    def producer_name(self) -> str:
        """The name the brokers know it by; without a chosen one, that of the first partition."""
        return self._producers[0].producer_name if self._producers else ""

    @property
    def partitions(self) -> int:
        """How many partitions it publishes to."""
        return len(self._producers)

    @property
    def last_sequence_id(self) -> int:
        """The highest sequence id known to be durable in any partition; -1: none."""
        return max((one.last_sequence_id for one in self._producers), default=-1)

    @property
    def acknowledged_messages(self) -> int:
        """How many messages of this producer are durable."""
        return sum(one.acknowledged_messages for one in self._producers)

    @property
    def pending_bytes(self) -> int:
        """Size of all messages not yet acknowledged."""
        return sum([one.pending_bytes for one in self._producers])

    @property
    def topic_epoch(self) -> int:
        """Of an exclusive producer: that of the first partition; 0 for a shared one."""
        return self._producers[0].topic_epoch if self._producers else 0

    @property
    def max_message_size_bytes(self) -> int:
        """The largest batch that every partition takes, as they said when they were opened."""
        return min((one.max_message_size_bytes for one in self._producers), default=0)

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more, to any partition."""
        return self._end is not None or (
            bool(self._producers) and all(one.closed for one in self._producers))

    @property
    def is_connected(self) -> bool:
        """Whether every partition has its link."""
        return all(one.is_connected for one in self._producers)

    # What it does.

    def send(
        self,
        content: bytes,
        properties: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        sequence_id: int | None = None,
        event_timestamp: int | None = None,
        deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
        tag: str | None = None,
        time_to_live: timedelta | float | None = None,
    ) -> Ticket:
        """Queue one message and return at once; see `Producer.send`.

        `partition_key` decides the partition; without one the `sequence_id` does, if given.
        """
        if self._end is not None:
            raise self._end
        if self._room_bytes <= 0:
            self._find_room()
        turns = None
        count = len(self._producers)
        if self._router is not None:
            number = chosen(self._router, OutgoingMessage(
                content, properties, partition_key, ordering_key, sequence_id, tag), count)
        elif partition_key is not None:
            number = self._hash(partition_key) % count
        elif self._single >= 0:
            number = self._single
        elif sequence_id is not None:
            number = sequence_id % count
        else:
            turns = self._turns
            assert turns is not None
            number = turns.partition(count)
        producer = self._producers[number]
        before = producer.pending_bytes
        ticket = producer.send(
            content, properties, partition_key, ordering_key, sequence_id, event_timestamp,
            deliver_at, deliver_after, tag, time_to_live)
        size_bytes = producer.pending_bytes - before
        self._room_bytes -= size_bytes
        if turns is not None:
            turns.sent(size_bytes, ticket)
        return ticket

    def send_batch(self, batch: bytes) -> Tickets:
        """See `Producer.send_batch`; the batch goes where its first message would."""
        if self._end is not None:
            raise self._end
        if self._room_bytes <= 0:
            self._find_room()
        view = EntryView(batch, verify=False)
        message = OutgoingMessage(
            view.payload(0), view.properties(0), view.partition_key(0), view.ordering_key(0),
            view.sequence_id(0), view.tag(0))
        count = len(self._producers)
        if self._router is not None:
            number = chosen(self._router, message, count)
        elif message.partition_key is not None:
            number = self._hash(message.partition_key) % count
        else:
            number = self._single if self._single >= 0 else view.sequence_id(0) % count
        producer = self._producers[number]
        before = producer.pending_bytes
        tickets = producer.send_batch(batch)
        self._room_bytes -= producer.pending_bytes - before
        return tickets

    async def ready(self) -> None:
        """Wait until `send()` has room for what it refused; raises what ended this producer."""
        while True:
            if self._end is not None:
                raise self._end
            if self._has_room:
                break
            await self._for_room.wait()
        # One partition may have refused for itself.
        for producer in self._producers:
            if not producer.closed:
                await producer.ready()

    async def send_many(
        self, contents: Sequence[bytes], properties: Mapping[str, str] | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None, *,
        partition_key: str | None = None, ordering_key: str | None = None,
        event_timestamp: int | None = None, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> Tickets:
        """Queue messages, waiting for room where needed; await the answer for their ids.

        Without a router or a key they are split into runs, a partition after the other.
        """
        if self._end is not None:
            raise self._end
        if set(map(type, contents)) - {bytes}:
            contents = [as_bytes(content) for content in contents]
        given: dict[str, Any] = {
            "properties": properties, "partition_key": partition_key,
            "ordering_key": ordering_key, "event_timestamp": event_timestamp,
            "deliver_at": deliver_at, "deliver_after": deliver_after, "tag": tag,
            "time_to_live": time_to_live,
        }
        if self._router is not None:
            return PartitionedTickets(
                [await self._send_waiting(content, given) for content in contents])
        count, turns, single = len(self._producers), self._turns, self._single
        if partition_key is not None:
            turns, single = None, self._hash(partition_key) % count
        ends = list(accumulate([len(content) + OVERHEAD_BYTES for content in contents]))
        run_messages = 0 if turns is None else turns.begin_many(len(contents), count)
        pieces: list[Tickets] = []
        at = before = 0
        while at < len(contents):
            number, left = single, len(contents)
            if turns is not None:
                number, left = turns.run(run_messages, len(self._producers))
            stop = min(bisect_right(ends, before + PIECE_BYTES, at), at + left)
            stop = max(stop, at + 1)
            await self._make_room(ends[stop - 1] - before)
            if turns is not None:
                turns.sent_many(stop - at)
            pieces.append(await self._producers[number].send_many(contents[at:stop], **given))
            at, before = stop, ends[stop - 1]
        return PartitionedTickets(pieces)

    async def cancel(self, scheduled_id: ScheduledId) -> ScheduleOutcome:
        """See `Producer.cancel`; the id says which partition has it."""
        if self._end is not None:
            raise self._end
        return await self._schedule.cancel(scheduled_id)

    async def reschedule(
        self, scheduled_id: ScheduledId, *, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> ScheduleOutcome:
        """See `Producer.reschedule`; it stays in its partition."""
        if self._end is not None:
            raise self._end
        return await self._schedule.reschedule(scheduled_id, deliver_at, deliver_after)

    async def flush(self) -> None:
        """Wait until everything sent before is durable.

        Raises the first error among those messages of which no ticket has been awaited.
        """
        await all_done([one.flush() for one in self._producers])

    async def close(self) -> None:
        """Flush, tell the brokers, and end; raises what `flush` raises. Twice is fine."""
        if self._end is None:
            self._end = AlreadyClosed("the producer is closed")
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        growing, self._growing = self._growing, None
        if growing is not None:
            growing.cancel()
            await asyncio.gather(growing, return_exceptions=True)
        try:
            await all_done([one.close() for one in self._producers])
        finally:
            self._for_room.wake()

    # Its partitions.

    async def open(self, deadline_s: float) -> None:
        """Open every partition; called once by the client."""
        await self._open_up_to(self._wanted, deadline_s)
        self._unwatch = self._watches.by_name(self._topic, self._seen)

    async def _open_up_to(self, partitions: int, deadline_s: float) -> None:
        """Nothing changes when one cannot be opened."""
        made = [
            self._make(self._topic.with_partition(number))
            for number in range(len(self._producers), partitions)
        ]
        room = asyncio.Semaphore(OPENED_AT_ONCE)

        async def open_one(producer: Producer) -> None:
            async with room:
                await producer.open(deadline_s)

        try:
            if self._one_first:
                await made[0].open(deadline_s)
            await all_done([open_one(producer) for producer in made[self._one_first:]])
        except BaseException:
            with suppress(MagnetarError):
                await all_done([producer.close() for producer in made])
            raise
        for producer in made:
            producer.on_settled = self._for_room.wake
        self._producers = (*self._producers, *made)

    def _seen(self, partitions: int | None) -> None:
        if partitions is None or partitions <= self._wanted or self._end is not None:
            return
        self._wanted = partitions
        if self._growing is None or self._growing.done():
            self._growing = asyncio.get_running_loop().create_task(
                self._grow(), name=f"magnetar partitions of {self.topic}")

    async def _grow(self) -> None:
        backoff = Backoff(self._connections.random, most_s=10.0)
        clock, settings = self._connections.clock, self._connections.settings
        while len(self._producers) < self._wanted:
            try:
                await self._open_up_to(
                    self._wanted, clock.monotonic_s() + settings.operation_timeout_s)
            except MagnetarError as error:
                _log.warning("%s: new partitions cannot be opened now: %s", self.topic, error)
                await clock.sleep(backoff.next_s())

    # Its room.

    @property
    def _has_room(self) -> bool:
        return self.pending_bytes <= self._most_bytes * ROOM_SHARE

    def _find_room(self) -> None:
        """Raises ProducerQueueFull."""
        pending = self.pending_bytes
        self._room_bytes = self._most_bytes - pending
        if self._room_bytes <= 0:
            raise ProducerQueueFull(
                f"{pending} bytes wait already; await ready() or use send_many()")

    async def _make_room(self, size: int) -> None:
        """Wait until so many bytes may be queued; raises what ended this producer."""
        while True:
            if self._end is not None:
                raise self._end
            pending = self.pending_bytes
            if not pending or pending + size <= self._most_bytes:
                self._room_bytes = self._most_bytes - pending - size
                return
            await self._for_room.wait()

    async def _send_waiting(self, content: bytes, given: Mapping[str, Any]) -> Ticket:
        while True:
            try:
                return self.send(content, **given)
            except ProducerQueueFull:
                await self.ready()


AnyProducer = Producer | PartitionedProducer
"""What `Client.create_producer` gives."""
