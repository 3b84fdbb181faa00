"""Pulling: messages are asked for when there is time for them, and leased until they are settled.

Nothing is held between two calls: no stream, no messages fetched ahead. Whoever pulled may also
be gone by the time another process settles what it got.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from magnetar.closable import Closable
from magnetar.connection import Connections
from magnetar.consumer_options import ConsumerOptions
from magnetar.dead_letter import short_reason
from magnetar.errors import AlreadyClosed, EndOfTopic, InvalidArgument
from magnetar.message import Message, id_of
from magnetar.message_id import MessageId
from magnetar.pull_log import PullLog, Settlement
from magnetar.redelivery_backoff import Delay, delay_ms_of
from magnetar.together import all_done
from magnetar.topic import TopicName

MOST_MESSAGES = 10_000
LONGEST_WAIT_MS = 60_000
LOOK_S = 10.0
"""How often a puller looks whether its topic has more partitions, at most."""
LONGEST_LEASE_MS = 12 * 3_600_000

Messages = Message | MessageId | Sequence[Message | MessageId]
Tell = Callable[[Settlement, Message | MessageId], None]


class PullConsumer(Closable):
    """Pulls from a subscription. Made by `Client.create_puller`; used from the client's loop.

    A message that is not settled within its lease is delivered again, counted as a failure.
    """

    def __init__(
        self, connections: Connections, topic: TopicName,
        partitions: Callable[[], Awaitable[int]], options: ConsumerOptions, lease_ms: int,
    ) -> None:
        self._connections = connections
        self._topic = topic
        self._options = options
        self._lease_ms = lease_ms
        self._partitions = partitions
        self._asked_s = connections.clock.monotonic_s()
        self._logs: dict[int, PullLog] = {}
        self._next = 0
        self._pulling: set[asyncio.Task[list[Message]]] = set()
        self._closed = False

    @property
    def topic(self) -> str:
        """The topic's full name."""
        return self._topic.full

    @property
    def subscription_name(self) -> str:
        return self._options.subscription_name

    @property
    def consumer_name(self) -> str:
        """What leases are held under: another puller of the name shares them."""
        return self._options.consumer_name

    @property
    def closed(self) -> bool:
        return self._closed

    async def open(self, deadline_s: float) -> None:
        """Find the partitions; nothing is opened before the first pull. Called by the client."""
        self._add(await self._partitions())

    def _add(self, partitions: int) -> None:
        topic = self._topic
        for name in [topic.with_partition(number) for number in range(partitions)] or [topic]:
            if name.partition not in self._logs:
                self._logs[name.partition] = PullLog(
                    self._connections, name, self._options, self._lease_ms)

    async def _look_for_partitions(self) -> None:
        """There may be more of them by now."""
        now_s = self._connections.clock.monotonic_s()
        if self._topic.partition not in self._logs and now_s - self._asked_s >= LOOK_S:
            self._asked_s = now_s
            self._add(await self._partitions())

    async def pull(
        self, max_messages: int = 100, wait_millis: int = 0, max_bytes: int = 0
    ) -> list[Message]:
        """What is there, at most so many messages; waits so long for the first, then is empty.

        `max_bytes` (0: as the broker likes) bounds what they are together; one message comes in
        any case. Of a partitioned topic the messages of one partition come, in turn. Raises
        EndOfTopic after the last message of a terminated topic, ConsumerBusy while an exclusive
        subscription has another consumer, AlreadyClosed when it is closed meanwhile.
        """
        self._check_open()
        if not 1 <= max_messages <= MOST_MESSAGES:
            raise InvalidArgument(f"max_messages is 1 to {MOST_MESSAGES}")
        if not 0 <= wait_millis <= LONGEST_WAIT_MS or not 0 <= max_bytes < 1 << 32:
            raise InvalidArgument(f"wait_millis is 0 to {LONGEST_WAIT_MS}, max_bytes 0 or more")
        pulling = asyncio.get_running_loop().create_task(
            self._pull(max_messages, wait_millis, max_bytes))
        self._pulling.add(pulling)
        try:
            return await pulling
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self._check_open()  # it is `close` that cancelled
            raise
        finally:
            self._pulling.discard(pulling)

    async def _pull(self, max_messages: int, wait_millis: int, max_bytes: int) -> list[Message]:
        await self._look_for_partitions()
        logs = self._in_turn()
        if len(logs) == 1:
            found = await logs[0].receive(max_messages, max_bytes, wait_millis)
        else:
            found = await self._first(logs, max_messages, max_bytes, wait_millis)
        if not found and all(log.at_end for log in self._logs.values()):
            raise EndOfTopic(f"{self.topic} is terminated, and all its messages are acknowledged")
        return found

    async def acknowledge(self, messages: Messages) -> None:
        """Never deliver them again; returns when this is durable. Works also after the lease, for
        ids kept elsewhere, and for messages that another puller got."""
        await self._settle(messages, lambda told, one: told.acknowledge.append(id_of(one)))

    async def acknowledge_cumulative(self, message: Message | MessageId) -> None:
        """Never deliver the message and all before it, in its partition, again."""
        self._check_open()
        found = id_of(message)
        await self._log_of(found).settle(Settlement(cumulative=found))

    async def negative_acknowledge(
        self, messages: Messages, delay: Delay | None = None, reason: str = ""
    ) -> None:
        """They failed: deliver them again after a delay, in seconds or as a timedelta.

        None: as the redelivery back-off says for each one's redelivery count, which only a
        Message tells. `reason` is kept with a dead letter, up to 1 KiB.
        """
        def tell(told: Settlement, one: Message | MessageId) -> None:
            if delay is not None:
                delay_ms = delay_ms_of(delay)
            else:
                count = one.redelivery_count if isinstance(one, Message) else 0
                delay_ms = self._options.backoff.delay_ms(count)
            told.negative.setdefault(delay_ms, []).append(id_of(one))
            told.reason = short_reason(reason)

        await self._settle(messages, tell)

    async def give_back(self, messages: Messages) -> None:
        """They were not tried: deliver them again in their old place, counting nothing."""
        await self._settle(messages, lambda told, one: told.unused.append(id_of(one)))

    async def extend_lease(self, messages: Messages, lease_millis: int | None = None) -> None:
        """Begin their leases anew. Raises InvalidArgument when one of them is over: then the
        message is delivered again."""
        lease_ms = self._lease_ms if lease_millis is None else lease_millis
        check_lease(lease_ms)

        def tell(told: Settlement, one: Message | MessageId) -> None:
            told.extend.append(id_of(one))
            told.lease_ms = lease_ms

        await self._settle(messages, tell)

    async def close(self) -> None:
        """End the pulls that wait, and give back, uncounted, what is not settled; closing twice
        is fine."""
        if self._closed:
            return
        self._closed = True
        for pulling in self._pulling:
            pulling.cancel()
        await asyncio.gather(*self._pulling, return_exceptions=True)
        await all_done(log.leave() for log in self._logs.values())

    # Inside.

    def _check_open(self) -> None:
        if self._closed:
            raise AlreadyClosed("the puller is closed; make a new one")

    def _in_turn(self) -> list[PullLog]:
        """The logs that may have something, another one first each time."""
        logs = [log for log in self._logs.values() if not log.at_end]
        if not logs:  # unless somebody sought back since
            logs = list(self._logs.values())
            for log in logs:
                log.at_end = False
        first = self._next % len(logs)
        self._next += 1
        return logs[first:] + logs[:first]

    async def _first(
        self, logs: list[PullLog], max_messages: int, max_bytes: int, wait_ms: int
    ) -> list[Message]:
        """Ask one after the other; if none has anything, wait at all of them."""
        deadline_s = self._connections.clock.monotonic_s() + wait_ms / 1000
        for log in logs:
            found = await log.receive(max_messages, max_bytes, 0)
            if found:
                return found
        left_ms = round((deadline_s - self._connections.clock.monotonic_s()) * 1000)
        if left_ms <= 0:
            return []
        waiting = {
            asyncio.ensure_future(log.receive(max_messages, max_bytes, left_ms)): log
            for log in logs
        }
        arrived: list[list[Message]] = []
        failed: BaseException | None = None
        try:
            while waiting and not arrived and failed is None:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del waiting[task]
                    if (error := task.exception()) is not None:
                        failed = error
                    elif messages := task.result():
                        arrived.append(messages)
        finally:
            # The broker takes back uncounted what these have not been answered with.
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        for messages in arrived[1:]:
            await self.give_back(messages)
        if failed is not None and not arrived:
            raise failed
        return arrived[0] if arrived else []

    def _log_of(self, message_id: MessageId) -> PullLog:
        log = self._logs.get(message_id.partition)
        if log is None and len(self._logs) == 1:
            [log] = self._logs.values()
        if log is None:
            raise InvalidArgument(f"{self.topic} has no partition {message_id.partition}")
        return log

    async def _settle(self, messages: Messages, tell: Tell) -> None:
        self._check_open()
        told: dict[PullLog, Settlement] = {}
        given = [messages] if isinstance(messages, Message | MessageId) else messages
        for message in given:
            tell(told.setdefault(self._log_of(id_of(message)), Settlement()), message)
        await all_done(log.settle(one) for log, one in told.items())


def check_lease(lease_ms: int) -> None:
    """Raises InvalidArgument."""
    if not 1 <= lease_ms <= LONGEST_LEASE_MS:
        raise InvalidArgument(f"a lease is 1 to {LONGEST_LEASE_MS} ms")
