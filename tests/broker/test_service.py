"""Brokers behind gRPC on loopback, with the SDK and with clients that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from broker.ownership import ProbeResult
from broker.probe import GrpcProbe
from broker.service import BrokerService
from magnetar import Client, ConsumerType, InitialPosition
from magnetar.errors import ConsumerBusy
from magnetar.runtime.network import Address
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.options import CLIENT_OPTIONS, SERVER_OPTIONS
from tests.broker.world import Node, World, until, world


class Served:
    """A broker and its port."""

    def __init__(self, node: Node, server: grpc.aio.Server, service: BrokerService) -> None:
        self.node = node
        self.server = server
        self.service = service
        self.address = str(node.broker._address)
        self.url = f"magnetar://{self.address}"


@asynccontextmanager
async def served(made: World, name: str = "b1") -> AsyncIterator[Served]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    node = await made.broker(name, address=Address("127.0.0.1", port))
    service = BrokerService(node.broker, "cluster")
    server.add_generic_rpc_handlers((service.handlers(),))
    await server.start()
    try:
        yield Served(node, server, service)
    finally:
        try:
            await made.stop(node)
        finally:
            await server.stop(None)


class RawStream:
    """A client that sends what it likes."""

    def __init__(self, channel: grpc.aio.Channel, method: str) -> None:
        self._call: Any = channel.stream_stream(f"/magnetar.v1.Broker/{method}")()

    async def write(self, frame: bytes) -> None:
        await self._call.write(frame)

    async def read(self) -> bytes:
        frame = await self._call.read()
        assert isinstance(frame, bytes), "the stream ended"
        return frame

    async def ended(self) -> bool:
        return await self._call.read() is grpc.aio.EOF


@asynccontextmanager
async def channel_to(broker: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(broker.address, options=CLIENT_OPTIONS) as channel:
        yield channel


async def test_what_is_published_is_consumed_and_acknowledged() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders", "p")
        consumer = await client.subscribe(
            "orders", "s", initial_position=InitialPosition.Earliest
        )
        await producer.send_many([b"%d" % number for number in range(1_000)])
        await producer.flush()

        received = [await consumer.receive(5_000) for _ in range(1_000)]
        assert [message.data for message in received] == [b"%d" % n for n in range(1_000)]
        await consumer.acknowledge_cumulative(received[899])
        await consumer.acknowledge(received[950])

        await consumer.close()
        again = await client.subscribe("orders", "s")
        left = [(await again.receive(5_000)).data for _ in range(99)]
        assert left == [b"%d" % n for n in range(900, 1_000) if n != 950]
        assert producer.acknowledged_messages == 1_000


async def test_negative_acknowledgement_seek_and_unsubscribe() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        consumer = await client.subscribe(
            "orders", "s", consumer_type=ConsumerType.Shared,
            negative_ack_redelivery_delay_ms=1,
        )
        ids = [await producer.send(b"%d" % number) for number in range(3)]
        first = await consumer.receive(5_000)
        consumer.negative_acknowledge(first)
        received = [await consumer.receive(5_000) for _ in range(3)]
        assert sorted(one.data for one in received) == [b"0", b"1", b"2"]
        assert max(one.redelivery_count for one in received) == 1

        await consumer.seek(ids[1])
        assert [(await consumer.receive(5_000)).data for _ in range(2)] == [b"1", b"2"]
        assert await consumer.last_message_id() == ids[2]
        await consumer.unsubscribe()
        assert (await broker.node.topic()).subscriptions() == []


async def test_readers_and_refusals() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        await client.subscribe("orders", "s")
        await producer.send(b"hello")
        reader = await client.create_reader("orders")

        assert (await reader.read_next(5_000)).data == b"hello"
        assert not await reader.has_message_available()
        async with Client(broker.url, operation_timeout_seconds=1) as other:
            with pytest.raises(ConsumerBusy):
                await other.subscribe("orders", "s")


async def test_clients_are_sent_to_the_owner_and_on_when_it_dies() -> None:
    async with (
        world() as made, served(made, "b1") as one, served(made, "b2") as two,
        Client(f"{one.url},{two.address}") as client,
    ):
        producer = await client.create_producer("orders")
        consumer = await client.subscribe("orders", "s")
        await producer.send(b"1")
        owner = one if one.node.broker.registry.all() else two
        survivor = two if owner is one else one
        assert len(survivor.node.broker.registry) == 0

        await made.kill(owner.node)
        await owner.server.stop(None)
        await producer.send(b"2")

        assert len(survivor.node.broker.registry) == 1
        assert {(await consumer.receive(5_000)).data for _ in range(2)} == {b"1", b"2"}


async def test_a_relay_serves_clients_that_cannot_reach_the_owner() -> None:
    async with world() as made, served(made, "b1") as one, served(made, "b2") as two:
        await one.node.broker._topic("orders")
        async with channel_to(two) as channel:
            stream = RawStream(channel, "Produce")
            await stream.write(pb.ProduceRequest(
                open=pb.OpenProducer(topic="orders", producer_name="p", relay=True)
            ).SerializeToString())
            reply = pb.ProduceReply.FromString(await stream.read())
            assert reply.opened.producer_name == "p"
            assert two.service.relay.streams == 1
            assert len((await one.node.topic()).publishing.producers) == 1

            await stream.write(pb.ProduceRequest(close=True).SerializeToString())
            assert pb.ProduceReply.FromString(await stream.read()).closed
            assert await stream.ended()
        await until(lambda: two.service.relay.streams == 0)


async def test_bad_frames_end_their_own_stream_only() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        async with channel_to(broker) as channel:
            for method, reply in (("Produce", pb.ProduceReply), ("Consume", pb.ConsumeReply)):
                for frame in (b"", b"\xff\xff\xff", b"\x0a"):
                    stream = RawStream(channel, method)
                    await stream.write(frame)
                    error = reply.FromString(await stream.read()).error
                    assert error.code == pb.INVALID_FRAME and error.message
                    assert await stream.ended()
            stream = RawStream(channel, "Produce")
            await stream.write(pb.ProduceRequest(
                open=pb.OpenProducer(topic="orders")).SerializeToString())
            await stream.read()
            await stream.write(pb.ProduceRequest(batches=[b"x" * 60]).SerializeToString())
            reply_frame = pb.ProduceReply.FromString(await stream.read())
            assert reply_frame.error.code == pb.INVALID_FRAME
            stream = RawStream(channel, "Consume")
            await stream.write(pb.ConsumeRequest(
                open=pb.OpenConsumer(topic="a b", subscription="s")).SerializeToString())
            bad = pb.ConsumeReply.FromString(await stream.read())
            assert bad.error.code == pb.INVALID_TOPIC_NAME

        assert await producer.send(b"still here") is not None


async def test_a_client_that_vanishes_gives_its_messages_back() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        producer = await client.create_producer("orders")
        gone = Client(broker.url)
        consumer = await gone.subscribe("orders", "s")
        await producer.send(b"x")
        await consumer.receive(5_000)
        subscription = (await broker.node.topic()).state.subscriptions["s"]
        assert len(subscription.consumers) == 1

        await gone.close()
        await until(lambda: not subscription.consumers)

        again = await client.subscribe("orders", "s")
        message = await again.receive(5_000)
        assert (message.data, message.redelivery_count) == (b"x", 1)


async def test_a_stopping_broker_sends_its_clients_on() -> None:
    async with (
        world() as made, served(made, "b1") as one, served(made, "b2") as two,
        Client(f"{one.url},{two.address}") as client,
    ):
        producer = await client.create_producer("orders")
        await producer.send(b"1")
        owner = one if one.node.broker.registry.all() else two

        sent = [producer.send(b"%d" % number) for number in range(50)]
        await made.stop(owner.node)
        for ticket in sent:
            await ticket

        assert producer.acknowledged_messages == 51


async def test_probes_tell_refused_from_alive() -> None:
    async with world() as made, served(made) as broker:
        probe = GrpcProbe()
        assert await probe.probe(broker.node.broker._address, 2.0) is ProbeResult.ALIVE
        await broker.server.stop(None)
        assert await probe.probe(broker.node.broker._address, 2.0) is ProbeResult.REFUSED
