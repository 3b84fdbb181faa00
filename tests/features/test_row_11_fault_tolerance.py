"""Row 11: what failed succeeds in the end: back-off, dead letters, redrive, and nothing lost.

The back-off of 1, 5 and 30 s is a tenth of that here, and in full in `make test-all`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

from magnetar import Consumer, ConsumerType, DeadLetterPolicy, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of

ORDERS, POISONED, DELIVERIES = 100, 5, 4
BACKOFF_S = (1.0, 5.0, 30.0)
SHRUNK = 10


async def _handle(
    consumer: Consumer, broken: bool, tries: dict[int, list[float]], done: Counter[int],
    quiet_ms: int,
) -> None:
    while True:
        try:
            order = await consumer.receive(quiet_ms)
        except OperationTimeout:
            return
        number = int(order.data)
        if broken and number % (ORDERS // POISONED) == 0:
            tries.setdefault(number, []).append(time.monotonic())
            consumer.negative_acknowledge(order, reason="refund: the bank says no")
        else:
            done[number] += 1
            await consumer.acknowledge(order)


async def test_refunds_succeed_in_the_end(cluster: FeatureCluster, topic: str) -> None:
    backoff_s = [one / (SHRUNK if cluster.in_process else 1) for one in BACKOFF_S]
    quiet_ms = int(backoff_s[-1] * 1000) + 1_500
    tries: dict[int, list[float]] = {}
    done: Counter[int] = Counter()
    async with client_of(cluster) as client:
        async def subscribed() -> Consumer:
            return await client.subscribe(
                topic, "refunds", consumer_type=ConsumerType.Shared,
                initial_position=InitialPosition.Earliest, redelivery_backoff=backoff_s,
                dead_letter_policy=DeadLetterPolicy(max_deliveries=DELIVERIES))

        consumer = await subscribed()
        producer = await client.create_producer(topic)
        await (await producer.send_many([b"%d" % number for number in range(ORDERS)]))
        await _handle(consumer, True, tries, done, quiet_ms)
        given_up = set(tries)
        dead = await client.create_reader(
            f"{topic}-refunds-dead", InitialPosition.Earliest)
        letters = []
        while await dead.has_message_available():
            letters += await dead.read_many(timeout_millis=30_000)

        report = await client.redrive(f"{topic}-refunds-dead")
        await _handle(consumer, False, tries, done, 2_000)

    assert given_up == set(range(0, ORDERS, ORDERS // POISONED))
    for moments in tries.values():
        gaps = [later - sooner for sooner, later in itertools.pairwise(moments)]
        assert len(moments) == DELIVERIES
        assert all(gap >= wanted for gap, wanted in zip(gaps, backoff_s, strict=True)), gaps
    assert {int(letter.data) for letter in letters} == given_up
    assert {letter.properties["dead_letter.reason"] for letter in letters} == {
        "refund: the bank says no"}
    assert report.moved == POISONED
    assert done == Counter(range(ORDERS))


async def test_a_poison_message_does_not_hold_up_the_others(
    cluster: FeatureCluster, topic: str
) -> None:
    async with client_of(cluster) as client:
        consumer = await client.subscribe(
            topic, "s", consumer_type=ConsumerType.KeyShared,
            initial_position=InitialPosition.Earliest, redelivery_backoff=[60])
        producer = await client.create_producer(topic)
        for number in range(50):
            producer.send(b"%d" % number, partition_key=f"key-{number % 5}")
        await producer.flush()

        received = []
        async with asyncio.timeout(30):
            while len(received) < 41:
                message = await consumer.receive()
                number = int(message.data)
                received.append(number)
                if number == 0:
                    consumer.negative_acknowledge(message)
                else:
                    await consumer.acknowledge(message)

    assert sorted(received) == [0, *(one for one in range(50) if one % 5)]
