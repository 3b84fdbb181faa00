"""Access modes through the SDK, over gRPC."""

from __future__ import annotations

import asyncio
import sys

import pytest

from magnetar import Client, InitialPosition, Producer, ProducerAccessMode, sync
from magnetar.errors import ConnectionFailed, OperationTimeout, ProducerBusy, ProducerFenced
from tests.broker.test_service import Served, served
from tests.broker.world import until, world

EXCLUSIVE = ProducerAccessMode.Exclusive
WAIT = ProducerAccessMode.WaitForExclusive
FENCING = ProducerAccessMode.ExclusiveWithFencing


async def waiting_in(broker: Served, count: int) -> None:
    topic = await broker.node.topic()
    await until(lambda: topic.publishing.door.waiting == count)


async def lose_link(producer: Producer) -> None:
    assert producer._stream is not None
    producer._stream.close()
    await until(lambda: not producer.is_connected)


async def test_waiting_goes_on_beyond_the_operation_timeout() -> None:
    async with (
        world() as made, served(made) as broker, Client(broker.url) as client,
        Client(broker.url, operation_timeout_seconds=0.3, connection_timeout_ms=200) as hasty,
    ):
        first = await client.create_producer("orders", "first", access_mode=EXCLUSIVE)
        with pytest.raises(ProducerBusy, match="'first'"):
            await client.create_producer("orders")
        waiting = asyncio.create_task(hasty.create_producer("orders", access_mode=WAIT))
        await waiting_in(broker, 1)
        await asyncio.wait({waiting}, timeout=0.6)
        assert not waiting.done()

        await first.close()

        second = await waiting
        assert (first.topic_epoch, second.topic_epoch) == (1, 2)
        await second.send(b"mine")


async def test_giving_up_the_wait_leaves_the_queue() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await client.create_producer("orders", access_mode=EXCLUSIVE)
        waiting = asyncio.create_task(client.create_producer("orders", access_mode=WAIT))
        await waiting_in(broker, 1)

        waiting.cancel()

        await waiting_in(broker, 0)


async def test_the_fenced_producer_ends() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        loser = await client.create_producer("orders")
        await loser.send(b"before")

        winner = await client.create_producer("orders", access_mode=FENCING)

        await until(lambda: loser.closed)
        with pytest.raises(ProducerFenced, match="with fencing"):
            loser.send(b"after")
        await winner.send(b"mine")
        reader = await client.create_reader("orders", InitialPosition.Earliest)
        assert [one.data for one in [await reader.read_next(5_000) for _ in range(2)]] == [
            b"before", b"mine"]


async def test_an_exclusive_producer_comes_back_after_its_link_broke() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders", access_mode=EXCLUSIVE)
        await producer.send(b"1")

        await lose_link(producer)
        await producer.send(b"2")

        assert producer.topic_epoch == 1


async def test_who_came_back_too_late_is_fenced() -> None:
    async with (
        world() as made, served(made) as broker,
        Client(broker.url) as client, Client(broker.url) as other,
    ):
        producer = await client.create_producer("orders", access_mode=EXCLUSIVE)
        waiting = asyncio.create_task(other.create_producer("orders", access_mode=WAIT))
        await waiting_in(broker, 1)

        await lose_link(producer)

        assert (await waiting).topic_epoch == 2
        with pytest.raises(ProducerFenced):
            await producer.send(b"late")


async def test_a_shared_producer_waits_out_an_exclusive_one() -> None:
    async with (
        world() as made, served(made) as broker,
        Client(broker.url) as client, Client(broker.url) as other,
    ):
        shared = await client.create_producer("orders")
        impatient = await client.create_producer("orders", send_timeout_millis=500)
        waiting = asyncio.create_task(other.create_producer("orders", access_mode=WAIT))
        await waiting_in(broker, 1)
        await lose_link(shared)
        await lose_link(impatient)
        exclusive = await waiting
        ticket = shared.send(b"patient")

        with pytest.raises(OperationTimeout, match="has an exclusive producer"):
            await impatient.send(b"impatient")
            await impatient.send(b"impatient")
        assert not ticket.done()
        await exclusive.close()

        await ticket


async def test_waiting_survives_the_loss_of_the_broker_it_waits_at() -> None:
    async with world() as made, served(made, "b1") as first, served(made, "b2") as second:
        url = f"magnetar://{first.address},{second.address}"
        async with Client(url) as client:
            holder = await client.create_producer("orders", access_mode=EXCLUSIVE)
            waiting = asyncio.create_task(client.create_producer("orders", access_mode=WAIT))
            owner, other = (
                (first, second) if len(first.node.broker.registry) else (second, first))
            await waiting_in(owner, 1)

            await made.kill(owner.node)
            await owner.server.stop(None)

            await holder.send(b"still mine")
            assert holder.topic_epoch == 1
            await waiting_in(other, 1)
            await holder.close()
            assert (await waiting).topic_epoch == 2


async def test_closing_the_client_ends_the_wait() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await client.create_producer("orders", access_mode=EXCLUSIVE)
        other = Client(broker.url)
        waiting = asyncio.create_task(other.create_producer("orders", access_mode=WAIT))
        await waiting_in(broker, 1)

        await other.close()

        with pytest.raises(ConnectionFailed):
            await waiting


async def test_programs_without_a_loop_have_them_too() -> None:
    def publish(url: str) -> tuple[int, str]:
        with (
            sync.Client(url) as client,
            client.create_producer("orders", access_mode=EXCLUSIVE) as producer,
        ):
            producer.send(b"x")
            with pytest.raises(ProducerBusy) as busy:
                client.create_producer("orders", access_mode=EXCLUSIVE)
            return producer.topic_epoch, str(busy.value)

    async with world() as made, served(made) as broker:
        epoch, said = await asyncio.to_thread(publish, broker.url)

    assert epoch == 1 and "exclusive producer" in said


async def test_the_command_line_names_the_modes() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        async def produce(mode: str) -> tuple[int | None, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "magnetar", "produce", "orders", "-m", "x", "--access-mode",
                mode, "--url", f"magnetar://{broker.address}", stderr=asyncio.subprocess.PIPE)
            _, said = await process.communicate()
            return process.returncode, said.decode()

        assert (await produce("exclusive"))[0] == 0
        producer = await client.create_producer("orders")
        code, said = await produce("exclusive")
        assert code == 1 and "1 other producers" in said and "Traceback" not in said
        assert (await produce("exclusive-with-fencing"))[0] == 0
        await until(lambda: producer.closed)
