"""Partitioned topics at the broker: creation, growth, partitions by use, listing, deletion."""

from __future__ import annotations

import asyncio

import pytest

from broker.conversation import OpenConsumer
from broker.topic_catalog import CatalogTopic, TopicCatalog
from magnetar.errors import (
    InvalidArgument,
    ResourceExists,
    TopicNotFound,
)
from magnetar.topic import TopicName
from metadata import paths
from metadata.tenants import NamespaceRecord, NamespaceRepository, TenantRecord, TenantRepository
from metadata.topics import TopicRecord, TopicRepository
from tenants.errors import NamespaceNotFound
from tenants.policies import TopicPolicies
from tests.broker.world import TOPIC, Node, Publisher, world
from tests.metadata.paused_store import PausedStore

ORDERS = TopicName.parse(TOPIC)


def partition(number: int) -> str:
    return ORDERS.with_partition(number).full


async def names(node: Node, pattern: str = "") -> list[CatalogTopic]:
    return await node.broker.catalog.list_topics("public", "default", pattern)


async def test_a_lookup_of_the_base_tells_the_partitions_and_each_has_its_own_log() -> None:
    async with world() as made:
        node = await made.broker()
        await node.broker.catalog.create_topic(ORDERS, 3)

        assert (await node.broker.lookup(TOPIC)).partitions == 3
        found = await node.broker.lookup(partition(2))
        assert (found.partitions, found.topic) == (0, partition(2))
        first = await Publisher.open(node, topic=partition(0))
        second = await Publisher.open(node, topic=partition(1))
        receipts = [await first.publish(b"a"), await second.publish(b"b")]
        assert receipts[0].ledger_id != receipts[1].ledger_id


async def test_a_partition_that_the_topic_does_not_have_is_not_found() -> None:
    async with world() as made:
        node = await made.broker()
        await node.broker.catalog.create_topic(ORDERS, 3)

        with pytest.raises(TopicNotFound, match="3 partitions, numbered from 0: no 3"):
            await node.broker.lookup(partition(3))
        with pytest.raises(TopicNotFound, match="no partitioned topic"):
            await node.broker.lookup("absent-partition-0")
        await node.broker.lookup("plain")
        with pytest.raises(TopicNotFound, match="plain is not partitioned"):
            await node.broker.lookup("plain-partition-0")
        with pytest.raises(InvalidArgument, match="orders-partition-0 to orders-partition-2"):
            await Publisher.open(node)

        await node.broker.catalog.grow_topic(ORDERS, 4)
        assert (await node.broker.lookup(partition(3))).topic == partition(3)


async def test_a_partition_that_was_there_before_is_served() -> None:
    async with world() as made:
        node = await made.broker()
        await TopicRepository(node.session).create(TopicRecord(partition(7)))

        assert (await node.broker.lookup(partition(7))).topic == partition(7)


async def test_a_name_is_taken_once() -> None:
    async with world() as made:
        node = await made.broker()
        catalog = node.broker.catalog
        await catalog.create_topic(ORDERS, 3)
        await catalog.create_topic(TopicName.parse("plain"))

        with pytest.raises(ResourceExists, match="exists, with 3 partitions"):
            await catalog.create_topic(ORDERS)
        with pytest.raises(ResourceExists, match="exists, without partitions"):
            await catalog.create_topic(TopicName.parse("plain"), 2)
        for wrong, partitions in (
            ("orders-partition-1", 0), ("non-persistent://public/default/x", 0),
            ("many", 10_001), ("many", -1),
        ):
            with pytest.raises(InvalidArgument):
                await catalog.create_topic(TopicName.parse(wrong), partitions)
        with pytest.raises(NamespaceNotFound):
            await catalog.create_topic(TopicName.parse("public/none/x"), 2)
        with pytest.raises(InvalidArgument, match="never falls"):
            await catalog.grow_topic(ORDERS, 2)
        with pytest.raises(InvalidArgument, match="not partitioned"):
            await catalog.grow_topic(TopicName.parse("plain"), 2)
        with pytest.raises(TopicNotFound):
            await catalog.grow_topic(TopicName.parse("absent"), 2)


async def test_of_two_brokers_one_decides_what_a_name_is() -> None:
    async with world() as made:
        one = await made.broker("b1")
        two = await made.broker("b2")

        results = await asyncio.gather(
            one.broker.catalog.create_topic(ORDERS), two.broker.catalog.create_topic(ORDERS, 2),
            one.broker.catalog.obtain(ORDERS), return_exceptions=True,
        )

        assert sum(isinstance(result, ResourceExists) for result in results) == 1
        kinds = [(await node.broker.lookup(TOPIC)).partitions for node in (one, two)]
        assert kinds[0] == kinds[1]


async def test_the_policy_decides_what_comes_into_being_by_use() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(auto_create_partitions=4))
        await TenantRepository(node.session).create(TenantRecord("t"))
        await NamespaceRepository(node.session).create(
            NamespaceRecord("t", "plain", {"auto_create_partitions": 0}))
        await NamespaceRepository(node.session).create(
            NamespaceRecord("t", "none", {"auto_create_topics": False}))

        assert (await node.broker.lookup("a")).partitions == 4
        assert (await node.broker.lookup("t/plain/a")).partitions == 0
        assert (await node.broker.lookup("b-partition-3")).partitions == 0
        assert (await node.broker.lookup("b")).partitions == 4
        for wrong in ("c-partition-4", "t/plain/c-partition-0", "t/none/c", "t/none/c-partition-0"):
            with pytest.raises(TopicNotFound):
                await node.broker.lookup(wrong)

        await node.broker.catalog.create_topic(TopicName.parse("t/none/made"), 2)
        assert (await node.broker.lookup("t/none/made-partition-1")).partitions == 0


async def test_what_must_exist_is_not_made_but_for_a_partition_of_what_does() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(auto_create_partitions=4))
        for absent in (TOPIC, partition(0)):
            with pytest.raises(TopicNotFound):
                await node.broker.lookup(absent, must_exist=True)
            with pytest.raises(TopicNotFound):
                await node.broker.open_consumer(
                    OpenConsumer(absent, "s", must_exist=True), lambda _: None, lambda _: None)
        assert await names(node) == []

        await node.broker.catalog.create_topic(ORDERS, 3)

        assert (await node.broker.lookup(partition(2), must_exist=True)).topic == partition(2)


async def test_topics_are_listed_without_their_partitions() -> None:
    async with world() as made:
        node = await made.broker()
        await node.broker.catalog.create_topic(ORDERS, 3)
        await node.broker.lookup(partition(1))
        await node.broker.lookup("orders-eu")
        await node.broker.lookup("zebras")

        orders, eu, zebras = (
            CatalogTopic(TOPIC, 3), CatalogTopic(f"{TOPIC}-eu"),
            CatalogTopic("persistent://public/default/zebras"),
        )
        assert await names(node) == [orders, eu, zebras]
        assert await names(node, "persistent://public/default/orders.*") == [orders, eu]
        assert await names(node, "persistent://public/default/orders") == [orders]
        with pytest.raises(InvalidArgument, match="missing"):
            await names(node, "orders(")


async def test_no_partition_comes_into_being_while_the_topic_is_deleted() -> None:
    async with world() as made:
        node = await made.broker()
        catalog = node.broker.catalog
        await catalog.create_topic(ORDERS, 2)

        assert await catalog.close_partitions(ORDERS) == [
            ORDERS.with_partition(0), ORDERS.with_partition(1)
        ]
        with pytest.raises(TopicNotFound, match="being deleted"):
            await node.broker.lookup(partition(0))
        with pytest.raises(ResourceExists, match="being deleted"):
            await catalog.create_topic(ORDERS, 2)
        assert await names(node) == []

        await catalog.forget_topic(ORDERS)
        with pytest.raises(TopicNotFound):
            await catalog.forget_topic(ORDERS)
        with pytest.raises(TopicNotFound):
            await catalog.close_partitions(ORDERS)
        await catalog.create_topic(ORDERS)
        assert (await node.broker.lookup(TOPIC)).partitions == 0


@pytest.mark.parametrize("operation", ["create", "get"])
async def test_a_deletion_leaves_no_partition_made_meanwhile(operation: str) -> None:
    async with world() as made:
        node = await made.broker()
        catalog = node.broker.catalog
        await catalog.create_topic(ORDERS, 1)
        store = PausedStore(node.session)
        slow = TopicCatalog(store, node.resolver, node.clock)  # type: ignore[arg-type]
        # Held up after it saw that the topic has this partition, or even before that.
        path = paths.topic(partition(0) if operation == "create" else TOPIC)
        pause = store.pause(operation, path)
        using = asyncio.create_task(slow.obtain(ORDERS.with_partition(0)))
        await pause.reached.wait()

        await catalog.close_partitions(ORDERS)
        pause.let_go()
        with pytest.raises(TopicNotFound, match="being deleted"):
            await using

        assert await TopicRepository(node.session).list("public", "default") == [TOPIC]
