"""Pulling over gRPC: the SDK, brokers that change, relays, partitions, threads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from broker import pull_session
from magnetar import Client, ConsumerType, InitialPosition, sync
from magnetar.errors import (
    AlreadyClosed,
    ConsumerBusy,
    EndOfTopic,
    InvalidArgument,
    MagnetarError,
)
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from tests.broker.test_service import channel_to, served
from tests.broker.world import TOPIC, settle, until, world

EARLIEST = InitialPosition.Earliest


@pytest.fixture(autouse=True)
def _reading_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine what is there takes a while to be read."""
    monkeypatch.setattr(pull_session, "READING_S", 5.0)


async def send(client: Client, *contents: bytes, topic: str = "orders", **options: Any) -> None:
    producer = await client.create_producer(topic)
    for content in contents:
        await producer.send(content, **options)
    await producer.close()


def contents(messages: list[Message]) -> list[bytes]:
    return [message.data for message in messages]


async def test_what_is_pulled_is_acknowledged_or_comes_again() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await send(client, b"a", b"b", b"c", b"d", partition_key="k", properties={"x": "y"})
        puller = await client.create_puller("orders", "s", initial_position=EARLIEST)

        first = await puller.pull(3)
        assert contents(first) == [b"a", b"b", b"c"]
        assert first[0].topic_name == TOPIC
        assert (first[0].partition_key, first[0].properties) == ("k", {"x": "y"})
        await puller.acknowledge(first[:1])
        await puller.negative_acknowledge(first[1], delay=0)
        await puller.give_back(first[2])

        again = await puller.pull(10, wait_millis=5_000)
        assert contents(again) == [b"b", b"c", b"d"]
        assert [one.redelivery_count for one in again] == [1, 0, 0]
        await puller.acknowledge([one.message_id for one in again])
        assert await puller.pull(10) == []


async def test_a_pull_waits_and_is_bounded() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        puller = await client.create_puller("orders", "s", initial_position=EARLIEST)
        waiting = asyncio.ensure_future(puller.pull(10, wait_millis=30_000))
        topic = await broker.node.topic()
        await until(lambda: topic.pulls.calls == 1)
        await send(client, b"a")
        assert contents(await waiting) == [b"a"]

        await send(client, b"b" * 1_000, b"c" * 1_000)
        assert contents(await puller.pull(10, max_bytes=1_500)) == [b"b" * 1_000]


async def test_leases_end_and_are_extended() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await send(client, b"a", b"b")
        puller = await client.create_puller(
            "orders", "s", initial_position=EARLIEST, lease_millis=10_000)
        first, second = await puller.pull(2)
        topic = await broker.node.topic()

        await puller.extend_lease(first, 60_000)
        broker.node.clock.ahead_s += 11
        topic.pulls.look_at_time()

        assert contents(await puller.pull(2)) == [b"b"]
        with pytest.raises(InvalidArgument, match="the lease is over"):
            await puller.extend_lease([second, MessageId(-1, 9_999, 0, 0)])


async def test_a_puller_that_closes_leaves_everything_to_others() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await send(client, b"a", b"b")
        options = {"consumer_type": ConsumerType.Exclusive, "initial_position": EARLIEST}
        puller = await client.create_puller("orders", "s", **options)
        message, _ = await puller.pull(2)
        other = await client.create_puller("orders", "s", **options)
        with pytest.raises(ConsumerBusy):
            await other.pull()

        await puller.close()
        await puller.close()

        with pytest.raises(AlreadyClosed):
            await puller.acknowledge(message)
        found = await other.pull()
        assert contents(found) == [b"a", b"b"]
        assert [one.redelivery_count for one in found] == [0, 0]
        await other.acknowledge_cumulative(found[1])
        assert (await broker.node.topic()).state.subscriptions["s"].backlog_messages == 0


async def test_pulling_and_settling_go_on_at_the_next_owner() -> None:
    async with world() as made, served(made, "b2") as second, served(made, "b1") as first:
        await first.node.topic()
        async with Client(f"{first.url},{second.address}") as client:
            await send(client, b"a", b"b")
            puller = await client.create_puller("orders", "s", initial_position=EARLIEST)
            message, _ = await puller.pull(2)
            await made.kill(first.node)
            await first.server.stop(None)
            await until(lambda: len(second.node.broker.directory.all()) == 1)

            await puller.acknowledge(message)
            assert contents(await puller.pull(2, wait_millis=5_000)) == [b"b"]


async def test_pulls_are_relayed_to_an_owner_the_client_cannot_reach() -> None:
    async with world() as made, served(made, "b1") as owner, served(made, "b2") as via:
        await owner.node.topic()
        async with Client(owner.url) as client, channel_to(via) as channel:
            await send(client, b"a")
            receive: Any = channel.unary_unary("/magnetar.v1.Broker/Receive")
            asked = pb.ReceiveRequest(max_messages=1, wait_ms=1_000, consumer=pb.OpenConsumer(
                topic=TOPIC, subscription="s", type=pb.SHARED, initial_position=pb.EARLIEST,
                durable=True, consumer_name="me"))

            not_here = pb.ReceiveReply.FromString(await receive(asked.SerializeToString()))
            assert not_here.error.code == pb.NOT_OWNER

            asked.consumer.relay = True
            reply = pb.ReceiveReply.FromString(await receive(asked.SerializeToString()))
            assert len(reply.deliveries) == 1

            tell: Any = channel.unary_unary("/magnetar.v1.Broker/Settle")
            told = pb.SettleRequest(
                topic=TOPIC, subscription="s", consumer_name="me", relay=True,
                individual=[pb.Position(
                    ledger_id=reply.deliveries[0].ledger_id,
                    entry_id=reply.deliveries[0].entry_id, batch_index=-1)])
            answer = pb.SettleReply.FromString(await tell(told.SerializeToString()))
            assert not answer.HasField("error")
            topic = await owner.node.topic()
            assert topic.state.subscriptions["s"].backlog_messages == 0

            broken = pb.ReceiveReply.FromString(await receive(b"\xff"))
            assert broken.error.code == pb.INVALID_FRAME


async def test_a_client_that_gives_up_its_call_loses_nothing() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        puller = await client.create_puller("orders", "s", initial_position=EARLIEST)
        topic = await broker.node.topic()
        waiting = asyncio.ensure_future(puller.pull(10, wait_millis=30_000))
        await until(lambda: topic.pulls.calls == 1)

        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until(lambda: topic.pulls.calls == 0)
        await send(client, b"a")
        await settle()

        [message] = await puller.pull(10, wait_millis=5_000)
        assert message.redelivery_count == 0


async def test_all_partitions_are_pulled_in_turn_and_waited_for() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await broker.node.broker.catalog.create_topic(TopicName.parse("parted"), 3)
        puller = await client.create_puller("parted", "s", initial_position=EARLIEST)
        for number in range(3):
            await send(client, b"%d" % number, topic=f"parted-partition-{number}")

        found = [message for _ in range(3) for message in await puller.pull(10, 5_000)]
        assert sorted(contents(found)) == [b"0", b"1", b"2"]
        assert sorted(one.message_id.partition for one in found) == [0, 1, 2]
        await puller.acknowledge(found)

        waiting = asyncio.ensure_future(puller.pull(10, wait_millis=30_000))
        topic = await broker.node.topic(f"{TOPIC.rpartition('/')[0]}/parted-partition-2")
        await until(lambda: topic.pulls.calls == 1)
        await send(client, b"late", topic="parted-partition-2")
        assert contents(await waiting) == [b"late"]


async def test_the_end_of_a_terminated_topic_is_raised() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await send(client, b"a")
        puller = await client.create_puller("orders", "s", initial_position=EARLIEST)
        await (await broker.node.topic()).terminate()

        await puller.acknowledge(await puller.pull())
        with pytest.raises(EndOfTopic):
            await puller.pull(wait_millis=60_000)


async def test_a_topic_that_was_at_its_end_is_pulled_again_after_a_seek() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await broker.node.broker.catalog.create_topic(TopicName.parse("parted"), 2)
        puller = await client.create_puller("parted", "s", initial_position=EARLIEST)
        for number in range(2):
            topic = f"parted-partition-{number}"
            await send(client, b"%d" % number, topic=topic)
            await (await broker.node.topic(TopicName.parse(topic).full)).terminate()
        for _ in range(2):
            await puller.acknowledge(await puller.pull())
        with pytest.raises(EndOfTopic):
            await puller.pull()

        async with await client.subscribe(
            "parted", "s", consumer_type=ConsumerType.Shared
        ) as consumer:
            await consumer.seek(EARLIEST)

        found = [await puller.pull(wait_millis=5_000) for _ in range(2)]
        assert sorted(contents(found[0] + found[1])) == [b"0", b"1"]


@pytest.mark.parametrize("partitions", [0, 2])
async def test_closing_ends_a_pull_that_waits(partitions: int) -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await broker.node.broker.catalog.create_topic(TopicName.parse("orders"), partitions)
        puller = await client.create_puller("orders", "s", initial_position=EARLIEST)
        waiting = asyncio.ensure_future(puller.pull(wait_millis=30_000))
        registry = broker.node.broker.registry
        await until(lambda: sum(one.pulls.calls for one in registry.all()) == max(partitions, 1))

        await puller.close()

        with pytest.raises(AlreadyClosed):
            await waiting
        await until(lambda: not any(one.pulls.calls for one in registry.all()))
        await send(client, b"a")
        async with await client.create_puller("orders", "s") as other:
            [message] = await other.pull(wait_millis=5_000)
            assert message.redelivery_count == 0


class ScriptedLog:
    """Answers a call that waits with what it was told to, at once."""

    at_end = False

    def __init__(self, answer: list[Message] | MagnetarError) -> None:
        self.answer = answer

    async def receive(self, _messages: int, _max_bytes: int, wait_ms: int) -> list[Message]:
        if not wait_ms:
            return []
        if isinstance(self.answer, MagnetarError):
            raise self.answer
        return self.answer

    async def leave(self) -> None:
        return


async def test_what_one_partition_brings_is_not_lost_to_the_error_of_another() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        await send(client, b"a")
        puller = await client.create_puller("orders", "s", initial_position=EARLIEST)
        found = await puller.pull()
        failing = ScriptedLog(ConsumerBusy("another one pulls"))
        for logs in ([failing, ScriptedLog(found)], [ScriptedLog(found), failing]):
            puller._logs = dict(enumerate(logs))  # type: ignore[arg-type]

            assert await puller.pull(wait_millis=5_000) == found

        puller._logs = {0: failing, 1: ScriptedLog([])}  # type: ignore[dict-item]
        with pytest.raises(ConsumerBusy):
            await puller.pull(wait_millis=5_000)


async def test_the_blocking_sdk_pulls_too() -> None:
    def work(url: str) -> list[bytes]:
        with sync.Client(url) as client:
            with client.create_producer("orders") as producer:
                producer.send(b"a")
                producer.send(b"b")
            with client.create_puller("orders", "s", initial_position=EARLIEST) as puller:
                found = puller.pull(1, wait_millis=5_000)
                puller.extend_lease(found)
                puller.acknowledge(found)
                rest = puller.pull(10, wait_millis=5_000)
                puller.negative_acknowledge(rest, delay=0)
                again = puller.pull(10, wait_millis=5_000)
                puller.give_back(again)
                last = puller.pull(10, wait_millis=5_000)
                puller.acknowledge(last)
                return [message.data for message in (*found, *rest, *again, *last)]

    async with world() as made, served(made) as broker:
        assert await asyncio.get_running_loop().run_in_executor(None, work, broker.url) == [
            b"a", b"b", b"b", b"b"]


async def test_bad_requests_are_refused_before_they_are_sent() -> None:
    async with world() as made, served(made) as broker, Client(broker.url) as client:
        puller = await client.create_puller("orders", "s")
        for bad in ({"max_messages": 0}, {"wait_millis": -1}, {"max_bytes": -1},
                    {"max_messages": 1_000_000}):
            with pytest.raises(InvalidArgument):
                await puller.pull(**bad)
        with pytest.raises(InvalidArgument):
            await client.create_puller("orders", "s", lease_millis=0)
        with pytest.raises(InvalidArgument):
            await puller.acknowledge(["not an id"])  # type: ignore[list-item]
        with pytest.raises(InvalidArgument):
            await client.create_puller("orders", "s", consumer_type=ConsumerType.Broadcast)
