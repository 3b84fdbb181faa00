"""Watching which topics there are: by pattern and by name, at the core and over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import pytest

from broker.namespace_watch import TopicWatcher
from broker.settings import BrokerLimits
from broker.topic_catalog import CatalogTopic
from magnetar.errors import ConnectionFailed, ConnectionLoss, InvalidArgument, MagnetarError
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from metadata import paths
from metadata.partitioned_topics import PartitionedTopicRecord, PartitionedTopicRepository
from metadata.topics import TopicRepository
from tenants.errors import NamespaceNotFound
from tests.broker.test_service import channel_to, served
from tests.broker.world import Node, settle, until, world

NAMESPACE = "public/default"
ORDERS = "persistent://public/default/orders"
ANY = "persistent://public/default/.*"
QUICK = BrokerLimits(listing_pause_s=0.0)


@dataclass
class Watching:
    """What a watcher was told, in order."""

    told: list[dict[str, int]] = field(default_factory=list)
    ended: list[MagnetarError] = field(default_factory=list)
    watcher: TopicWatcher = None  # type: ignore[assignment]

    @classmethod
    async def open(
        cls, node: Node, pattern: str = "", topics: Sequence[str] = (), namespace: str = NAMESPACE
    ) -> Watching:
        made = cls()
        made.watcher = await node.broker.topic_watches.open(
            namespace, pattern, topics, made._told, made.ended.append
        )
        return made

    def _told(self, topics: list[CatalogTopic]) -> None:
        self.told.append({topic.name: topic.partitions for topic in topics})

    async def sees(self, expected: dict[str, int]) -> None:
        await until(lambda: bool(self.told) and self.told[-1] == expected)


def named(local: str) -> TopicName:
    return TopicName.parse(local)


def full(local: str) -> str:
    return named(local).full


async def test_first_all_there_are_then_every_change() -> None:
    async with world() as made:
        node, other = await made.broker("b1", limits=QUICK), await made.broker("b2")
        await other.broker.catalog.create_topic(named("orders"), 3)
        await other.broker.catalog.create_topic(named("zebras"))

        watching = await Watching.open(node, ANY)
        await watching.sees({ORDERS: 3, full("zebras"): 0})
        assert len(watching.told) == 1
        await other.broker.lookup("by-use")
        await watching.sees({ORDERS: 3, full("zebras"): 0, full("by-use"): 0})
        await other.broker.catalog.grow_topic(named("orders"), 5)
        await watching.sees({ORDERS: 5, full("zebras"): 0, full("by-use"): 0})
        await other.broker.catalog.close_partitions(named("orders"))
        await watching.sees({full("zebras"): 0, full("by-use"): 0})
        topics = TopicRepository(other.session)
        await topics.delete(full("by-use"), (await topics.get(full("by-use")))[1])
        await other.broker.catalog.tell_changed(named("by-use"))
        await watching.sees({full("zebras"): 0})


async def test_partitions_that_come_into_being_are_no_news() -> None:
    async with world() as made:
        node = await made.broker(limits=QUICK)
        await node.broker.catalog.create_topic(named("orders"), 2)
        watching = await Watching.open(node, ANY)
        await watching.sees({ORDERS: 2})

        await node.broker.lookup("orders-partition-1")
        await settle()

        assert watching.told == [{ORDERS: 2}]


async def test_only_what_matches_is_told() -> None:
    async with world() as made:
        node = await made.broker(limits=QUICK)
        orders = await Watching.open(node, "persistent://public/default/orders-.*")
        eu = await Watching.open(node, "persistent://public/default/.*-eu")
        await orders.sees({})
        await eu.sees({})

        await node.broker.lookup("orders-us")
        await orders.sees({full("orders-us"): 0})
        await node.broker.lookup("orders-eu")
        await orders.sees({full("orders-us"): 0, full("orders-eu"): 0})
        await eu.sees({full("orders-eu"): 0})

        assert eu.told == [{}, {full("orders-eu"): 0}]


async def test_topics_are_watched_by_name_without_listing() -> None:
    async with world() as made:
        node, other = await made.broker("b1", limits=QUICK), await made.broker("b2")
        await other.broker.catalog.create_topic(named("orders"), 2)
        watching = await Watching.open(node, topics=[ORDERS, full("later")])
        await watching.sees({ORDERS: 2})

        async def refuse(tenant: str, namespace: str) -> dict[str, int]:
            raise AssertionError("a namespace was listed for topics that are watched by name")

        node.broker.catalog.partitions_by_topic = refuse  # type: ignore[method-assign]
        await other.broker.catalog.grow_topic(named("orders"), 4)
        await watching.sees({ORDERS: 4})
        await other.broker.lookup("later")
        await watching.sees({ORDERS: 4, full("later"): 0})
        await other.broker.catalog.close_partitions(named("orders"))
        await other.broker.catalog.forget_topic(named("orders"))
        await watching.sees({full("later"): 0})


async def test_one_listing_serves_everybody_and_a_burst() -> None:
    async with world() as made:
        node = await made.broker(limits=replace(QUICK, listing_pause_s=0.05))
        listings = 0
        partitions_by_topic = node.broker.catalog.partitions_by_topic

        async def count(tenant: str, namespace: str) -> dict[str, int]:
            nonlocal listings
            listings += 1
            return await partitions_by_topic(tenant, namespace)

        node.broker.catalog.partitions_by_topic = count  # type: ignore[method-assign]
        watching = [await Watching.open(node, ANY) for _ in range(50)]
        for one in watching:
            await one.sees({})

        for number in range(30):
            await node.broker.catalog.create_topic(named(f"t{number}"))
        everything = {full(f"t{number}"): 0 for number in range(30)}
        for one in watching:
            await one.sees(everything)

        assert listings <= 6


async def test_a_change_nobody_was_told_of_is_found_by_reading_again() -> None:
    async with world() as made:
        node = await made.broker(limits=replace(QUICK, listing_again_s=0.02))
        watching = await Watching.open(node, ANY)
        await watching.sees({})

        await PartitionedTopicRepository(node.session).create(PartitionedTopicRecord(ORDERS, 1))

        await watching.sees({ORDERS: 1})


async def test_what_cannot_be_read_leaves_the_view_as_it_was() -> None:
    async with world() as made:
        node = await made.broker(limits=QUICK)
        watching = await Watching.open(node, ANY)
        await watching.sees({})
        partitions_by_topic, failures = node.broker.catalog.partitions_by_topic, 0

        async def fail_once(tenant: str, namespace: str) -> dict[str, int]:
            nonlocal failures
            if not failures:
                failures += 1
                raise ConnectionLoss("no answer")
            return await partitions_by_topic(tenant, namespace)

        node.broker.catalog.partitions_by_topic = fail_once  # type: ignore[method-assign]
        await node.broker.catalog.create_topic(named("orders"))
        await watching.sees({ORDERS: 0})

        assert (failures, watching.told) == (1, [{}, {ORDERS: 0}])


async def test_nobody_left_leaves_no_watch_and_no_task() -> None:
    async with world() as made:
        node = await made.broker(limits=QUICK)
        before = len(asyncio.all_tasks())
        watching = [
            await Watching.open(node, ANY), await Watching.open(node, ANY, [ORDERS]),
            await Watching.open(node, topics=[ORDERS]),
        ]
        for one in watching:
            await one.sees({})
        watch = watching[0].watcher.watch

        for one in watching:
            node.broker.topic_watches.close(one.watcher)
        await settle()
        await node.broker.catalog.create_topic(named("orders"))
        await settle()

        assert len(asyncio.all_tasks()) == before
        assert node.broker.topic_watches.watchers == 0
        assert (watch._names, watch._patterns, watch._cancel_generation) == ({}, {}, None)
        assert [one.told for one in watching] == [[{}], [{}], [{}]]


async def test_what_cannot_be_watched_is_refused() -> None:
    async with world() as made:
        node = await made.broker(limits=replace(
            QUICK, topic_watchers=2, topics_a_watch=1, watched_names=1
        ))
        for pattern, topics, namespace, error in (
            ("(", (), NAMESPACE, InvalidArgument),
            ("", (), NAMESPACE, InvalidArgument),
            ("", ("persistent://public/other/x",), NAMESPACE, InvalidArgument),
            ("", ("non-persistent://public/default/x",), NAMESPACE, InvalidArgument),
            ("", ("a", "b"), NAMESPACE, InvalidArgument),
            (ANY, (), "public", InvalidArgument),
            (ANY, (), "public/none", NamespaceNotFound),
        ):
            with pytest.raises(error):
                await Watching.open(node, pattern, topics, namespace)
        assert node.broker.topic_watches.watchers == 0

        first = await Watching.open(node, topics=[ORDERS])
        with pytest.raises(ConnectionFailed, match="watched by name"):
            await Watching.open(node, topics=[full("other")])
        await Watching.open(node, ANY)
        with pytest.raises(ConnectionFailed, match="all the watchers"):
            await Watching.open(node, ANY)
        node.broker.topic_watches.close(first.watcher)
        wide = await Watching.open(node, ANY)
        await node.broker.lookup("a")
        await node.broker.lookup("b")
        await until(lambda: bool(wide.ended))
        assert "matches 2 topics, above 1" in str(wide.ended[0])


async def test_a_broker_that_leaves_sends_its_watchers_away() -> None:
    async with world() as made:
        node = await made.broker(limits=QUICK)
        watching = await Watching.open(node, ANY)

        await made.stop(node)

        assert isinstance(watching.ended[0], ConnectionFailed)


# Over gRPC.


class Stream:
    """A WatchTopics stream."""

    def __init__(self, channel: grpc.aio.Channel, request: pb.WatchTopicsRequest) -> None:
        method: Any = channel.unary_stream("/magnetar.v1.Broker/WatchTopics")
        self.call = method(request.SerializeToString())

    async def read(self) -> pb.WatchTopicsReply:
        frame = await self.call.read()
        assert isinstance(frame, bytes), "the stream ended"
        return pb.WatchTopicsReply.FromString(frame)


def seen(reply: pb.WatchTopicsReply) -> list[tuple[str, int]]:
    return [(topic.name, topic.partitions) for topic in reply.topics]


async def test_a_stream_tells_what_there_is_and_leaves_nothing_behind() -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        catalog = broker.node.broker.catalog
        await catalog.create_topic(named("orders"), 2)
        request = pb.WatchTopicsRequest(
            namespace=NAMESPACE, pattern=r"persistent://public/default/orders(-\w+)?",
            topics=[full("zebras")],
        )
        stream = Stream(channel, request)

        assert seen(await stream.read()) == [(ORDERS, 2)]
        await catalog.create_topic(named("zebras"))
        assert seen(await stream.read()) == [(ORDERS, 2), (full("zebras"), 0)]
        await catalog.grow_topic(named("orders"), 3)
        assert seen(await stream.read()) == [(ORDERS, 3), (full("zebras"), 0)]
        stream.call.cancel()
        await until(lambda: broker.node.broker.topic_watches.watchers == 0)


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (pb.WatchTopicsRequest(namespace=NAMESPACE, pattern="("), pb.INVALID_ARGUMENT, "missing )"),
        (pb.WatchTopicsRequest(namespace="x", pattern=ANY), pb.INVALID_TOPIC_NAME, "no namespace"),
        (pb.WatchTopicsRequest(namespace="public/no", pattern=ANY), pb.TOPIC_NOT_FOUND, "create"),
    ],
)
async def test_a_stream_that_cannot_be_served_says_why(
    request_: pb.WatchTopicsRequest, code: int, said: str
) -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        stream = Stream(channel, request_)

        reply = await stream.read()

        assert reply.error.code == code
        assert said in reply.error.message
        assert await stream.call.read() is grpc.aio.EOF


async def test_a_stream_at_a_broker_that_leaves_is_sent_to_another() -> None:
    async with world() as made, served(made) as broker, channel_to(broker) as channel:
        stream = Stream(channel, pb.WatchTopicsRequest(namespace=NAMESPACE, pattern=ANY))
        await stream.read()

        await made.stop(broker.node)

        assert (await stream.read()).error.code == pb.UNAVAILABLE


async def test_a_generation_is_watched_once_however_many_watch() -> None:
    async with world() as made:
        node = await made.broker(limits=QUICK)
        watched: list[str] = []
        watch = node.session.watch

        def counting(path: str, callback: Any) -> Any:
            watched.append(path)
            return watch(path, callback)

        node.session.watch = counting  # type: ignore[method-assign]
        for number in range(20):
            await Watching.open(node, f"{ANY}{number}", [ORDERS])

        assert watched.count(paths.topic_generation("public", "default")) == 1
        assert watched.count(paths.topic(ORDERS)) == 1
