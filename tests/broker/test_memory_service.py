"""Non-persistent topics through the SDK, over gRPC, while brokers die."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from itertools import chain

import pytest

from broker.ownership import ProbeResult
from magnetar import Client, Consumer, ConsumerType, InitialPosition
from magnetar.errors import NotSupported, OperationTimeout
from tests.broker.test_service import Served, served
from tests.broker.world import World, until, world

TOPIC = "non-persistent://public/default/ticks"


async def owner_first(first: Served, second: Served) -> tuple[Served, Served]:
    found = await first.node.broker.lookup(TOPIC)
    return (first, second) if found.owner_address == first.address else (second, first)


async def kill(made: World, broker: Served) -> None:
    """Its port refuses, its registration stays."""
    broker.node.broker.crash()
    await broker.server.stop(None)


async def test_messages_flow_in_memory() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        for name in ("k1", "k2", "k3"):
            made.ground.bookies[name].down = True
        producer = await client.create_producer(TOPIC)
        alone = await client.subscribe(TOPIC, "alone")
        shared = [
            await client.subscribe(TOPIC, "shared", consumer_type=ConsumerType.Shared)
            for _ in range(2)
        ]

        await (await producer.send_many([b"%d" % number for number in range(200)]))

        received = [(await alone.receive(5_000)).data for _ in range(200)]
        assert received == [b"%d" % number for number in range(200)]
        got: list[bytes] = []

        async def work(consumer: Consumer) -> None:
            while True:
                message = await consumer.receive()
                got.append(message.data)
                await consumer.acknowledge(message)

        workers = [asyncio.create_task(work(consumer)) for consumer in shared]
        await until(lambda: len(got) == 200)
        for worker in workers:
            worker.cancel()
        assert sorted(got) == sorted(received)
        reader = await client.create_reader(TOPIC, InitialPosition.Earliest)
        assert (await reader.read_next(5_000)).data == b"0"
        with pytest.raises(NotSupported, match="not persistent"):
            await producer.send(b"later", deliver_after=60)
        assert (await producer.send(b"now")).ledger_id > 0


@pytest.mark.parametrize("kind", list(ConsumerType))
async def test_every_type_of_subscription_works_in_memory(kind: ConsumerType) -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        alone = kind is ConsumerType.Exclusive
        consumers = [
            await client.subscribe(
                TOPIC, "s", consumer_type=kind, consumer_name=name,
                negative_ack_redelivery_delay_ms=1)
            for name in ("a", "b")[:1 if alone else 2]
        ]
        copies = len(consumers) if kind is ConsumerType.Broadcast else 1
        wanted = [b"%d" % number for number in range(100)]
        got: list[list[bytes]] = [[] for _ in consumers]
        failed: set[bytes] = set()

        async def work(consumer: Consumer, into: list[bytes]) -> None:
            while True:
                message = await consumer.receive()
                if message.data == b"50" and not failed:
                    failed.add(message.data)
                    consumer.negative_acknowledge(message)
                    continue
                into.append(message.data)
                await consumer.acknowledge(message)

        workers = [
            asyncio.create_task(work(one, into))
            for one, into in zip(consumers, got, strict=True)
        ]
        producer = await client.create_producer(TOPIC)
        for number, content in enumerate(wanted):
            producer.send(content, partition_key=f"key {number % 7}")
        await producer.flush()

        await until(lambda: sum(map(len, got)) >= copies * 100)
        for worker in workers:
            worker.cancel()
        assert sorted(chain.from_iterable(got)) == sorted(wanted * copies)


async def test_pulling_works_in_memory() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        puller = await client.create_puller(TOPIC, "s")
        assert await puller.pull(10, 0) == []
        producer = await client.create_producer(TOPIC)
        await (await producer.send_many([b"1", b"2"]))

        messages = await puller.pull(10, 5_000)

        assert [one.data for one in messages] == [b"1", b"2"]


async def test_it_goes_on_at_the_next_broker_when_the_first_dies() -> None:
    async with world() as made, served(made, "b1") as first, served(made, "b2") as second:
        owner, other = await owner_first(first, second)
        async with Client(f"magnetar://{owner.address},{other.address}") as client:
            producer = await client.create_producer(TOPIC)
            consumer = await client.subscribe(TOPIC, "s")
            await producer.send(b"before")
            assert (await consumer.receive(5_000)).data == b"before"

            await kill(made, owner)

            other.node.probe.result = ProbeResult.REFUSED
            received = b""
            async with asyncio.timeout(20):
                while received != b"after":
                    # The consumer may come back later than the producer, and miss some.
                    await producer.send(b"after")
                    with suppress(OperationTimeout):
                        received = (await consumer.receive(500)).data
            await made.kill(owner.node)


async def test_the_command_line_takes_the_full_name() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        consumer = await client.subscribe(TOPIC, "s")

        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "magnetar", "produce", TOPIC, "-m", "x", "--url", broker.url],
            capture_output=True, text=True, timeout=60,
        )

        assert done.returncode == 0, done.stderr
        assert (await consumer.receive(5_000)).data == b"x"
