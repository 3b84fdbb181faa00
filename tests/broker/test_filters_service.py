"""Filters through the SDK, the blocking façade and the command line, over gRPC on loopback."""

from __future__ import annotations

import asyncio
import random

import pytest
from typer.testing import CliRunner

from broker.consumer_session import ConsumerSession
from broker.conversation import Delivery
from magnetar import Client, CompressionType, ConsumerType, InitialPosition
from magnetar import sync as blocking
from magnetar.cli.app import app
from magnetar.consuming import Consumer
from magnetar.errors import ConsumerBusy, InvalidArgument, NotSupported, OperationTimeout
from magnetar.message import Message
from tests.broker.test_service import served
from tests.broker.world import until, world

EARLIEST = InitialPosition.Earliest


async def receive(consumer: Consumer, count: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < count:
        found += await consumer.receive_many(count - len(found), 5_000)
    return found


async def nothing_more(consumer: Consumer) -> None:
    with pytest.raises(OperationTimeout):
        await consumer.receive(100)


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.ZSTD])
async def test_filtered_messages_keep_ids_and_everything_else(
    compression: CompressionType, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed: list[Delivery] = []
    offer = ConsumerSession.offer

    def noted(session: ConsumerSession, delivery: Delivery) -> None:
        crossed.append(delivery)
        offer(session, delivery)

    monkeypatch.setattr(ConsumerSession, "offer", noted)
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders", compression_type=compression)
        consumer = await client.subscribe(
            "orders", "s", filter="price > 100 AND region IN ('eu', 'us')", tags="order || bill"
        )
        secret = random.Random(3).randbytes(64)
        tickets = []
        for n in range(400):
            region = ("eu", "us", "asia")[n % 3]
            tickets.append(producer.send(
                b"wanted %d" % n if n > 100 and region != "asia" and n % 2 else secret,
                {"price": str(n), "region": region}, partition_key=f"k{n}", event_timestamp=n + 1,
                tag=("none", "order", None, "bill")[n % 4],
            ))
        ids = [await ticket for ticket in tickets]
        expected = [n for n in range(101, 400, 2) if n % 3 != 2]

        got = await receive(consumer, len(expected))

        assert [one.data for one in got] == [b"wanted %d" % n for n in expected]
        assert [one.message_id for one in got] == [ids[n] for n in expected]
        assert [one.event_timestamp for one in got] == [n + 1 for n in expected]
        assert [one.partition_key for one in got] == [f"k{n}" for n in expected]
        assert [one.properties["price"] for one in got] == [str(n) for n in expected]
        assert {one.tag for one in got} == {"order", "bill"}
        await nothing_more(consumer)
        assert crossed and not any(secret in one.entry for one in crossed)
        subscription = (await broker.node.topic()).state.subscriptions["s"]
        assert subscription.backlog_messages == len(expected)
        for one in got[:-1]:
            consumer.acknowledge(one)
        await consumer.acknowledge(got[-1].message_id)
        assert subscription.backlog_messages == 0
        await subscription.flushed()
        assert subscription.durable_floor == 400


async def test_parts_of_a_batch_are_redelivered_after_a_reconnect() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        consumer = await client.subscribe(
            "orders", "s", tags="odd", consumer_type=ConsumerType.Shared,
            negative_ack_redelivery_delay_ms=1,
        )
        await producer.send_many([b"even"] * 3, tag="even")
        tickets = [producer.send(b"%d" % n, tag="odd" if n % 2 else "even") for n in range(8)]
        ids = [await ticket for ticket in tickets]
        got = await receive(consumer, 4)
        await consumer.acknowledge(got[0])
        consumer.negative_acknowledge(got[2])
        again = await consumer.receive(5_000)
        assert (again.data, again.message_id, again.redelivery_count) == (b"5", ids[5], 1)
        await consumer.acknowledge(again)
        await consumer.close()

        with pytest.raises(InvalidArgument, match="line 1, column 8"):
            await client.subscribe("orders", "s", filter="price >")
        consumer = await client.subscribe(
            "orders", "s", tags="odd", consumer_type=ConsumerType.Shared
        )
        left = await receive(consumer, 2)
        assert [one.message_id for one in left] == [ids[3], ids[7]]
        async with Client(broker.url, operation_timeout_seconds=1) as other:
            with pytest.raises(ConsumerBusy, match="with tags 'odd'"):
                await other.subscribe("orders", "s", consumer_type=ConsumerType.Shared)


async def test_readers_go_on_behind_what_they_read() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        ids = [
            await ticket for ticket in
            [producer.send(b"%d" % n, {"n": str(n)}) for n in range(20)]
        ]
        reader = await client.create_reader("orders", filter="n >= 5 AND n < 9")
        assert [(await reader.read_next(5_000)).data for _ in range(2)] == [b"5", b"6"]
        for session in (await broker.node.topic())._temporary[0].consumers:
            session.end(ConsumerBusy("the link is replaced"))
        assert [(await reader.read_next(5_000)).data for _ in range(2)] == [b"7", b"8"]
        with pytest.raises(NotSupported, match="filter"):
            await reader.has_message_available()
        behind = await client.create_reader("orders", ids[6], filter="n < 9")
        assert (await behind.read_next(5_000)).message_id == ids[7]


async def test_tags_that_nobody_could_ask_for_are_refused() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        for tag in ("", "a b", "a||b", "*", 5):
            with pytest.raises(InvalidArgument, match="no tag"):
                producer.send(b"x", tag=tag)  # type: ignore[arg-type]


async def test_the_blocking_sdk_and_the_command_line() -> None:
    def work(url: str) -> None:
        run = CliRunner().invoke
        for arguments in (["-m", "1", "--tag", "A", "-p", "n=1", "-p", "of=a=b"],
                          ["-m", "2", "--tag", "B", "-p", "n=2"], ["-m", "3"]):
            done = run(app, ["produce", "orders", "--url", url, *arguments])
            assert done.exit_code == 0, done.output
        assert run(app, ["produce", "orders", "--url", url, "-m", "x", "-p", "n"]).exit_code == 1
        for options, expected in (
            (["--tags", "A || B"], "1\n2\n"), (["--filter", "n > 1 OR of = 'a=b'"], "1\n2\n"),
            (["--tags", "*"], "1\n2\n3\n"), (["--tags", "B", "--filter", "n = 2"], "2\n"),
        ):
            done = run(app, ["consume", "orders", "--url", url, "-s", "".join(options),
                             "--wait-ms", "500", *options])
            assert (done.exit_code, done.stdout) == (0, expected), done.output
        with blocking.Client(url) as client:
            client.create_producer("orders").send(b"4", tag="C")
            consumer = client.subscribe("orders", "c", tags="C", initial_position=EARLIEST)
            message = consumer.receive(5_000)
            assert (message.data, message.tag) == (b"4", "C")

    async with world() as made, served(made) as broker:
        await asyncio.get_running_loop().run_in_executor(None, work, broker.url)
        await until(lambda: not any(
            one.consumers for one in broker.node.broker.registry.all()[0].subscriptions()
        ))
