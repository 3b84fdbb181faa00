"""Who gets what by the type of the subscription, and how a consumer learns of it."""

from __future__ import annotations

import asyncio
from itertools import chain

import pytest

from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.errors import ConsumerBusy, InvalidArgument, OperationTimeout
from magnetar.message_id import MessageId
from tests.client.memory_broker import MemoryCluster

EARLIEST = InitialPosition.Earliest


class Changes(list[tuple[str, bool]]):
    """What consumers were told; `reached` waits for so many."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def __call__(self, consumer: Consumer, active: bool) -> None:
        self.append((consumer.consumer_name, active))
        self._more.set()

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self) < count:
                self._more.clear()
                await self._more.wait()


async def publish(client: Client, count: int, keys: int = 0) -> None:
    async with await client.create_producer("t", batching_enabled=not keys) as producer:
        for number in range(count):
            producer.send(
                b"%d" % number, partition_key=f"key-{number % keys}" if keys else None)


async def drain(consumer: Consumer, wait_ms: int = 50) -> list[int]:
    received = []
    try:
        while True:
            message = await consumer.receive(wait_ms)
            received.append(int(message.data))
            await consumer.acknowledge(message)
    except OperationTimeout:
        return received


async def subscribe(
    client: Client, kind: ConsumerType, name: str = "", hold_failed_keys: bool | None = None
) -> Consumer:
    return await client.subscribe(
        "t", "s", consumer_type=kind, consumer_name=name, initial_position=EARLIEST,
        hold_failed_keys=hold_failed_keys)


async def test_a_failover_consumer_knows_whether_it_is_served(client: Client) -> None:
    changes = Changes()
    await publish(client, 10)
    first, second = [
        await client.subscribe(
            "t", "s", consumer_type=ConsumerType.Failover, consumer_name=name,
            initial_position=EARLIEST, on_active_changed=changes)
        for name in ("first", "second")
    ]
    await changes.reached(1)
    before = [int((await first.receive(5000)).data) for _ in range(4)]
    assert (first.is_active, second.is_active) == (True, False)

    await first.close()
    await changes.reached(3)

    assert before == [0, 1, 2, 3]
    assert changes == [("first", True), ("first", False), ("second", True)]
    assert (first.is_active, second.is_active) == (False, True)
    assert await drain(second) == list(range(10))


async def test_a_consumer_that_is_no_longer_served_hands_nothing_out(
    client: Client, cluster: MemoryCluster
) -> None:
    changes = Changes()
    await publish(client, 10)
    first, second = [
        await client.subscribe(
            "t", "s", consumer_type=ConsumerType.Failover, consumer_name=name,
            initial_position=EARLIEST, on_active_changed=changes)
        for name in ("first", "second")
    ]
    await first.acknowledge(await first.receive(5000))

    cluster.topic("t").subscriptions["s"].give_way()
    await changes.reached(3)

    with pytest.raises(OperationTimeout):
        await first.receive(20)
    assert await drain(second) == list(range(1, 10))


async def test_a_lost_link_ends_being_active_and_a_failing_callback_is_passed_over(
    client: Client, cluster: MemoryCluster
) -> None:
    changes = Changes()

    def tell(consumer: Consumer, active: bool) -> None:
        changes(consumer, active)
        raise RuntimeError("of the user")

    await client.subscribe(
        "t", "s", consumer_type=ConsumerType.Failover, on_active_changed=tell)
    await changes.reached(1)
    cluster.drop_links()
    await changes.reached(3)

    assert changes == [("given", True), ("given", False), ("given", True)]


async def test_shared_consumers_have_each_message_once(client: Client) -> None:
    await publish(client, 100, keys=100)
    consumers = [await subscribe(client, ConsumerType.Shared) for _ in range(3)]

    received = await asyncio.gather(*map(drain, consumers))

    assert sorted(chain.from_iterable(received)) == list(range(100))


async def test_a_key_goes_to_one_of_the_key_shared_in_order(client: Client) -> None:
    consumers = [await subscribe(client, ConsumerType.KeyShared) for _ in range(3)]
    await publish(client, 200, keys=20)

    received = await asyncio.gather(*map(drain, consumers))

    assert sorted(chain.from_iterable(received)) == list(range(200))
    for key in range(20):
        mine = [[number for number in one if number % 20 == key] for one in received]
        assert sorted(mine)[-1] == list(range(key, 200, 20))


async def test_every_broadcast_member_gets_everything_at_its_own_pace(client: Client) -> None:
    await publish(client, 10)
    first = await subscribe(client, ConsumerType.Broadcast, "a")
    second = await subscribe(client, ConsumerType.Broadcast, "b")
    assert await drain(first) == list(range(10))
    await second.acknowledge_cumulative((await second.receive_many(4))[-1])
    await second.close()

    again = await subscribe(client, ConsumerType.Broadcast, "b")

    assert await drain(again) == list(range(4, 10))
    assert await drain(await subscribe(client, ConsumerType.Broadcast, "a-new")) == list(range(10))


async def test_what_a_type_does_not_allow(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="consumer_name"):
        await client.subscribe("t", "s", consumer_type=ConsumerType.Broadcast)
    with pytest.raises(InvalidArgument, match="ConsumerType"):
        await client.subscribe("t", "s", consumer_type="shared")
    with pytest.raises(InvalidArgument, match="failover"):
        await client.subscribe("t", "s", on_active_changed=print)
    for kind in (ConsumerType.Shared, ConsumerType.KeyShared):
        async with await subscribe(client, kind) as consumer:
            with pytest.raises(InvalidArgument, match="cumulative"):
                consumer.acknowledge_cumulative(MessageId.earliest)
            with pytest.raises(ConsumerBusy):
                await subscribe(client, ConsumerType.Exclusive)
    for kind in (ConsumerType.Exclusive, ConsumerType.Failover):
        async with await subscribe(client, kind, hold_failed_keys=True) as consumer:
            with pytest.raises(InvalidArgument, match="hold_failed_keys"):
                consumer.acknowledge_cumulative(MessageId.earliest)
        async with await subscribe(client, kind) as consumer:
            await publish(client, 1)
            await consumer.acknowledge_cumulative(await consumer.receive(5000))
