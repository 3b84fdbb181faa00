"""Row 7: order of a partition, of each producer and of a key, while the topic's owner is killed."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest

from magnetar import (
    Client,
    Consumer,
    ConsumerType,
    InitialPosition,
    Message,
    MessageId,
    PartitionedProducer,
    Producer,
    Ticket,
)
from magnetar.message_id import stored_id
from tests.features.cluster import FeatureCluster, client_of, eventually, kill_owner

pytestmark = pytest.mark.timeout(240)

PRODUCERS, MEMBERS, KEYS, KILLS = 3, 3, 30, 3
TOGETHER = 120
"""Messages of each producer between two changes of the cluster."""
ALL_WITHIN_S = 90.0


class Log:
    """What the consumers of a subscription processed first, whoever of them it was, in order of
    processing; what comes again is not new."""

    def __init__(self) -> None:
        self.messages: dict[MessageId, Message] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, consumer: Consumer) -> None:
        self._tasks.append(asyncio.create_task(self._process(consumer)))

    async def _process(self, consumer: Consumer) -> None:
        while True:
            message = await consumer.receive()
            self.messages.setdefault(message.message_id, message)
            await consumer.acknowledge(message)

    async def until_all_of(self, wanted: set[MessageId]) -> None:
        """Wait until each of them was processed by somebody; raises TimeoutError."""
        await eventually(lambda: wanted <= self.messages.keys(), ALL_WITHIN_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def out_of_order(self) -> dict[str | None, list[MessageId]]:
        """Keys of which something was processed before what comes ahead of it in the log."""
        found: dict[str | None, list[MessageId]] = defaultdict(list)
        for message_id, message in self.messages.items():
            found[message.partition_key].append(message_id)
        return {key: ids for key, ids in found.items() if ids != sorted(ids)}


class Sender:
    """A producer that numbers what it sends, with keys that all producers share."""

    def __init__(self, producer: Producer | PartitionedProducer) -> None:
        self._producer = producer
        self._tickets: list[Ticket] = []

    async def send_more(self) -> None:
        """Send some, of which the second half may be under way when it returns."""
        for _ in range(TOGETHER):
            await self._producer.ready()
            number = len(self._tickets)
            self._tickets.append(
                self._producer.send(b"%d" % number, partition_key=f"key-{number % KEYS}"))
        await self._tickets[-TOGETHER // 2]

    async def ids(self) -> list[MessageId]:
        """Of all that was sent, in order."""
        return [stored_id(await ticket) for ticket in self._tickets]


async def _subscribed(client: Client, topic: str, kind: ConsumerType, members: int) -> Log:
    log = Log()
    for _ in range(members):
        log.add(await client.subscribe(
            topic, kind.name, consumer_type=kind, initial_position=InitialPosition.Earliest))
    return log


async def test_order_holds_while_brokers_are_killed(cluster: FeatureCluster, topic: str) -> None:
    async with client_of(cluster) as client:
        whole = await _subscribed(client, topic, ConsumerType.Exclusive, 1)
        keyed = await _subscribed(client, topic, ConsumerType.KeyShared, MEMBERS)
        senders = [
            Sender(await client.create_producer(topic, f"p-{number}", send_timeout_millis=120_000))
            for number in range(PRODUCERS)
        ]

        for _ in range(KILLS):
            await asyncio.gather(*(one.send_more() for one in senders))
            killed = await kill_owner(cluster, topic)
            await asyncio.gather(*(one.send_more() for one in senders))
            await cluster.restart(killed)
        sent = [await one.ids() for one in senders]
        every = {message_id for ids in sent for message_id in ids}
        await whole.until_all_of(every)
        await keyed.until_all_of(every)

    assert all(ids == sorted(set(ids)) for ids in sent)
    assert list(whole.messages) == sorted(every)
    numbers: dict[str, list[int]] = defaultdict(list)
    for message in whole.messages.values():
        numbers[message.producer_name].append(int(message.data))
    assert list(numbers.values()) == [list(range(2 * KILLS * TOGETHER))] * PRODUCERS
    assert keyed.messages.keys() == every
    assert not keyed.out_of_order()
