"""Redriving over gRPC: the SDK, a relay, and the command line's answers."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from broker.ownership import ProbeResult
from magnetar import Client, InitialPosition
from magnetar.errors import (
    ConnectionFailed,
    ConsumerBusy,
    InvalidArgument,
    TopicNotFound,
    TopicTerminated,
)
from magnetar.redrive import RedriveReport
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from tests.broker.test_dead_letters import DEAD
from tests.broker.test_redrive import given_up, payloads
from tests.broker.test_service import Served, channel_to, served
from tests.broker.world import TOPIC, Publisher, until, world

DEAD_NAME = "orders-s-dead"


async def test_a_client_redrives_and_is_told_what_was_done() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await given_up(broker.node, b"a", b"b", b"c")

        report = await client.redrive(DEAD_NAME, max_messages=2)
        assert report == RedriveReport(moved=2, targets={TOPIC: 2})

        consumer = await client.subscribe(
            "orders", "after", initial_position=InitialPosition.Earliest)
        received = [await consumer.receive(5_000) for _ in range(5)]
        assert [one.data for one in received] == [b"a", b"b", b"c", b"a", b"b"]
        assert [one.producer_name for one in received] == ["p"] * 5
        assert [one.sequence_id for one in received] == [0, 1, 2, 0, 1]
        assert received[4].properties["redriven.count"] == "1"

        assert (await client.redrive(DEAD_NAME)).moved == 1
        assert await client.redrive(DEAD_NAME) == RedriveReport()


async def test_all_partitions_of_a_dead_letter_topic_are_redriven() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await broker.node.broker.catalog.create_topic(TopicName.parse("dead"), 3)
        for number in range(3):
            publisher = await Publisher.open(
                broker.node, "p", topic=f"{TOPIC.rpartition('/')[0]}/dead-partition-{number}")
            await publisher.publish(b"%d" % number)

        assert (await client.redrive("dead")).without_target == 3
        assert (await client.redrive("dead", to="orders", max_messages=2)).moved == 2
        assert (await client.redrive("dead", to="orders")).moved == 1
        assert await payloads(broker.node) == [b"0", b"1", b"2"]


async def test_bad_requests_are_refused() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await given_up(broker.node, b"a")

        with pytest.raises(InvalidArgument, match="filter, line 1"):
            await client.redrive(DEAD_NAME, filter="price >")
        with pytest.raises(InvalidArgument, match="name another topic"):
            await client.redrive(DEAD_NAME, to=DEAD_NAME)
        with pytest.raises(InvalidArgument, match="max_messages"):
            await client.redrive(DEAD_NAME, max_messages=-1)
        consumer = await client.subscribe(DEAD_NAME, "redrive")
        with pytest.raises(ConsumerBusy):
            await client.redrive(DEAD_NAME)
        await consumer.close()


async def test_a_topic_that_is_not_there_is_refused_and_not_made() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        with pytest.raises(TopicNotFound, match="orders-s-daed does not exist"):
            await client.redrive("orders-s-daed")

        with pytest.raises(TopicNotFound):
            await broker.node.broker.catalog.existing(TopicName.parse("orders-s-daed"))


async def test_a_redrive_that_gets_nowhere_tells_why_and_how_much_it_moved() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await given_up(broker.node, b"a")
        made.forwarder.failing[TOPIC] = TopicTerminated("orders takes no more")

        with pytest.raises(ConnectionFailed, match="takes no more; at least 0 messages"):
            await client.redrive(DEAD_NAME, patience_millis=50)


async def relayed_redrive(via: Served) -> list[pb.RedriveReply]:
    async with channel_to(via) as channel:
        call = channel.unary_stream("/magnetar.v1.Broker/Redrive")(
            pb.RedriveRequest(topic=DEAD_NAME, relay=True).SerializeToString())  # type: ignore[arg-type]
        found = []
        while (frame := await call.read()) is not grpc.aio.EOF:
            found.append(pb.RedriveReply.FromString(frame))
        return found


async def test_a_redrive_is_relayed_to_an_owner_the_client_cannot_reach() -> None:
    async with world() as made, served(made, "b1") as owner, served(made, "b2") as via:
        via.node.probe.result = ProbeResult.ALIVE
        await given_up(owner.node, b"a")

        replies = await relayed_redrive(via)

        assert (replies[-1].moved, replies[-1].done) == (1, True)


async def test_a_client_that_leaves_ends_its_redrive() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await given_up(broker.node, b"a")
        made.forwarder.gate.clear()
        run = asyncio.ensure_future(client.redrive(DEAD_NAME))
        subscription = (await broker.node.topic(DEAD)).state.subscriptions["redrive"]
        await until(lambda: TOPIC in subscription.forward_plans)

        run.cancel()
        await asyncio.gather(run, return_exceptions=True)

        await until(lambda: not subscription.consumers)
        made.forwarder.gate.set()
        await client.redrive(DEAD_NAME)
        assert await payloads(broker.node) == [b"a", b"a"]
