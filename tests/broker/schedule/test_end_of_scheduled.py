"""A topic in whose schedule messages wait does not end by the way, and it is said what to do."""

from __future__ import annotations

import asyncio

import pytest

from magnetar.errors import ResourceInUse, TopicNotFound
from tests.broker.administered import Directly
from tests.broker.schedule.scheduled import HOUR_MS, pass_time, place_of, schedule, until_stored
from tests.broker.world import TOPIC, Node, Publisher, World, settle, until, world

WAITS = (
    "2 messages that wait for their time; `magnetar admin schedule list .*orders` shows them:"
    " cancel them,"
)


async def with_two_waiting(made: World) -> tuple[Node, Publisher]:
    node = await made.broker()
    publisher = await Publisher.open(node, "p")
    due_ms = node.clock.wall_ms() + HOUR_MS
    await schedule(publisher, (b"a", due_ms), (b"b", due_ms))
    return node, publisher


async def test_it_is_not_terminated_before_they_are_delivered() -> None:
    async with world() as made:
        node, publisher = await with_two_waiting(made)

        with pytest.raises(ResourceInUse, match=f"{WAITS} or terminate it after that"):
            await node.broker.lifecycle.terminate(TOPIC)

        await publisher.publish(b"c")
        await pass_time(node, 2 * HOUR_MS)
        await until_stored(node, 3)
        await node.broker.lifecycle.terminate(TOPIC)
        assert (await node.topic()).terminated


async def test_it_is_terminated_when_the_last_of_them_is_stored() -> None:
    async with world() as made:
        node, _ = await with_two_waiting(made)
        bookies = [made.ground.bookies[name] for name in ("k1", "k2", "k3")]
        for bookie in bookies:
            bookie.held = True
        await pass_time(node, 2 * HOUR_MS)

        terminating = asyncio.ensure_future(node.broker.lifecycle.terminate(TOPIC))
        await settle()
        before = terminating.done()
        for bookie in bookies:
            bookie.release()
        async with asyncio.timeout(5):
            await terminating

        assert not before and (await node.topic()).terminated


async def test_it_is_terminated_once_they_are_cancelled() -> None:
    async with world() as made:
        node, publisher = await with_two_waiting(made)
        topic = await node.topic()
        receipt = publisher.receipts[0]
        await topic.schedule.cancel([place_of(receipt, 0), place_of(receipt, 1)])

        await node.broker.lifecycle.terminate(TOPIC)

        assert topic.terminated


async def test_it_is_deleted_by_force_only() -> None:
    async with world() as made:
        node, publisher = await with_two_waiting(made)
        publisher.session.close()

        with pytest.raises(ResourceInUse, match=f"{WAITS} or delete by force"):
            await node.broker.lifecycle.delete(TOPIC)

        await node.broker.lifecycle.delete(TOPIC, force=True)
        with pytest.raises(TopicNotFound):
            await node.broker.existing_topic(TOPIC)


async def test_nor_is_a_partitioned_one() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        await admin.topics.create(TOPIC, 2)
        publisher = await Publisher.open(node, "p", topic=f"{TOPIC}-partition-1")
        due_ms = node.clock.wall_ms() + HOUR_MS
        await schedule(publisher, (b"a", due_ms), (b"b", due_ms))
        publisher.session.close()
        await until(lambda: publisher.session.closed)

        with pytest.raises(ResourceInUse, match=f"{WAITS} or delete by force"):
            await admin.topics.delete(TOPIC)

        await admin.topics.delete(TOPIC, force=True)
