"""Subscription types on the wire: opening, failing, and what consumers are told."""

from __future__ import annotations

import grpc

from broker.state_records import SubscriptionKind
from magnetar.entry import EntryView, parse_prefix
from magnetar.wire import broker_pb2 as pb
from tests.broker.test_service import RawStream, channel_to, served
from tests.broker.world import TOPIC, Publisher, settle, world


class Consumer:
    """A stream that keeps what it read, by kind."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stream = RawStream(channel, "Consume")
        self.deliveries: list[pb.Delivery] = []
        self.actives: list[bool] = []
        self.ends = 0

    async def open(self, **options: object) -> None:
        opening = pb.OpenConsumer(
            topic=TOPIC, subscription="s", durable=True, **options)  # type: ignore[arg-type]
        await self.send(open=opening)
        reply = pb.ConsumeReply.FromString(await self.stream.read())
        assert reply.HasField("opened"), reply
        await self.send(permits=100)

    async def send(self, **fields: object) -> None:
        frame = pb.ConsumeRequest(**fields)  # type: ignore[arg-type]
        await self.stream.write(frame.SerializeToString())

    async def read(self) -> None:
        reply = pb.ConsumeReply.FromString(await self.stream.read())
        assert not reply.HasField("error"), reply.error
        self.deliveries += reply.deliveries
        if reply.HasField("active_changed"):
            self.actives.append(reply.active_changed.active)
        self.ends += reply.end_of_topic

    async def until_delivered(self, count: int) -> list[bytes]:
        while len(self.deliveries) < count:
            await self.read()
        return [payload_of(one) for one in self.deliveries]

    def position(self, index: int) -> pb.Position:
        one = self.deliveries[index]
        return pb.Position(ledger_id=one.ledger_id, entry_id=one.entry_id, batch_index=0)


def payload_of(delivery: pb.Delivery) -> bytes:
    return EntryView(parse_prefix(delivery.entry)[1]).payload(0)


async def test_the_numbers_on_the_wire_are_those_of_the_state_ledger() -> None:
    assert {kind.name: kind.value for kind in SubscriptionKind} == dict(pb.SubscriptionType.items())


async def test_negative_acknowledgements_delay_count_and_give_back() -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        consumer = Consumer(channel)
        await consumer.open(type=pb.KEY_SHARED, max_deliveries=3)
        publisher = await Publisher.open(broker.node)
        await publisher.publish(b"1")
        await publisher.publish(b"2")
        await consumer.until_delivered(2)

        await consumer.send(negative=[
            pb.NegativeAcknowledge(
                positions=[consumer.position(0)], delay_ms=20, reason="not yet"),
            pb.NegativeAcknowledge(positions=[consumer.position(1)], uncounted=True),
        ])

        assert await consumer.until_delivered(4) == [b"1", b"2", b"2", b"1"]
        assert [one.redelivery_count for one in consumer.deliveries] == [0, 0, 0, 1]


async def test_failover_members_are_told_after_they_are_open() -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        one, two = Consumer(channel), Consumer(channel)
        await one.open(type=pb.FAILOVER, consumer_name="one")
        await two.open(type=pb.FAILOVER, consumer_name="two")
        await one.read()
        await two.read()
        assert (one.actives, two.actives) == ([True], [False])

        await one.send(close=True)
        await two.read()

        assert two.actives == [False, True]


async def test_the_end_of_a_terminated_topic_is_told_once() -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        consumer = Consumer(channel)
        await consumer.open()
        await (await Publisher.open(broker.node)).publish(b"1")
        await (await broker.node.topic()).terminate()

        while not consumer.ends:
            await consumer.read()
        await consumer.send(permits=5)
        await settle()

        assert [payload_of(one) for one in consumer.deliveries] == [b"1"]
        assert consumer.ends == 1


async def test_an_option_this_version_does_not_know_is_refused() -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        for unknown in ({"type": 9}, {"hold_failed_keys": 7}):
            stream = RawStream(channel, "Consume")
            opening = pb.OpenConsumer(
                topic=TOPIC, subscription="s", **unknown)  # type: ignore[arg-type]
            await stream.write(pb.ConsumeRequest(open=opening).SerializeToString())

            reply = pb.ConsumeReply.FromString(await stream.read())

            assert reply.error.code == pb.INVALID_FRAME
