"""Row 5: each message is processed once; what failed comes again, what was done does not."""

from __future__ import annotations

import asyncio
from collections import Counter

from magnetar import Consumer, ConsumerType, InitialPosition
from magnetar.errors import OperationTimeout
from tests.features.cluster import FeatureCluster, client_of

MESSAGES, WORKERS, FAILS_EACH = 4_000, 4, 10
REDELIVERY_DELAY_MS = 50
QUIET_MS = 1_000


async def _work(consumer: Consumer, deliveries: Counter[int], done: Counter[int]) -> None:
    while True:
        try:
            message = await consumer.receive(QUIET_MS)
        except OperationTimeout:
            return
        number = int(message.data)
        deliveries[number] += 1
        if number % FAILS_EACH == 0 and message.redelivery_count == 0:
            consumer.negative_acknowledge(message)
        else:
            done[number] += 1
            consumer.acknowledge(message)


async def test_four_workers_share_the_work_and_repeat_what_failed(
    cluster: FeatureCluster, topic: str
) -> None:
    deliveries: Counter[int] = Counter()
    done: Counter[int] = Counter()
    async with client_of(cluster) as client:
        workers = [
            await client.subscribe(
                topic, "work", consumer_type=ConsumerType.Shared, receiver_queue_size=100,
                initial_position=InitialPosition.Earliest,
                negative_ack_redelivery_delay_ms=REDELIVERY_DELAY_MS)
            for _ in range(WORKERS)
        ]
        producer = await client.create_producer(topic, batching_max_allowed_size_in_bytes=2_000)
        await (await producer.send_many([b"%d" % number for number in range(MESSAGES)]))

        await asyncio.gather(*(_work(worker, deliveries, done) for worker in workers))

    assert done == Counter(range(MESSAGES))
    assert {number for number, times in deliveries.items() if times == 2} == set(
        range(0, MESSAGES, FAILS_EACH))
    assert max(deliveries.values()) == 2
