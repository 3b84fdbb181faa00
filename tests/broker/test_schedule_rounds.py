"""Scheduled messages become due though nobody has their topic loaded: a broker finds it."""

from __future__ import annotations

import pytest

from broker.settings import BrokerLimits
from magnetar.errors import ConnectionFailed
from magnetar.ids import LedgerId
from metadata import paths
from metadata.scheduled_topics import ScheduledTopics
from tests.broker.schedule.scheduled import HOUR_MS, schedule
from tests.broker.world import TOPIC, Node, Publisher, World, settle, until, world

NEVER_BY_ITSELF = BrokerLimits(schedule_round_interval_s=3_600.0, idle_unload_s=0.0)


async def marks(made: World) -> dict[str, list[LedgerId]]:
    found: dict[str, list[LedgerId]] = {}
    async for part in ScheduledTopics(made.ground.session).in_parts():
        found |= part
    return found


async def scheduled_in_an_hour(made: World, name: str = "b1") -> Node:
    node = await made.broker(name, limits=NEVER_BY_ITSELF)
    publisher = await Publisher.open(node, "p")
    await schedule(publisher, (b"later", node.clock.wall_ms() + HOUR_MS))
    publisher.session.close()
    return node


async def fires(node: Node) -> None:
    """The topic, which nobody asked this broker for, stores what has become due meanwhile."""
    await until(lambda: node.broker.registry.get(TOPIC) is not None)
    topic = node.broker.registry.get(TOPIC)
    assert topic is not None
    node.clock.wall_offset_ms += HOUR_MS
    topic.schedule.fire()
    await until(lambda: topic.log.end_ordinal == 1)


async def test_brokers_that_all_began_anew_find_it() -> None:
    async with world() as made:
        await made.kill(await scheduled_in_an_hour(made))

        node = await made.broker("b2", limits=NEVER_BY_ITSELF)

        await fires(node)


async def test_a_broker_that_left_in_good_order_leaves_it_to_others() -> None:
    async with world() as made:
        await made.stop(await scheduled_in_an_hour(made))

        node = await made.broker("b2", limits=NEVER_BY_ITSELF)

        await fires(node)


async def test_the_end_of_its_owner_is_noticed_by_another_broker_at_once() -> None:
    async with world() as made:
        owner = await scheduled_in_an_hour(made)
        other = await made.broker("b2", limits=NEVER_BY_ITSELF)
        await other.broker.schedule_rounds.walk()
        assert other.broker.registry.get(TOPIC) is None

        await made.kill(owner)

        await fires(other)


async def test_an_owner_whose_topic_failed_loads_it_again() -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        topic = await node.topic()
        topic.fail(ConnectionFailed("its ledger cannot go on"))
        await until(lambda: node.broker.registry.get(TOPIC) is None)

        await node.broker.schedule_rounds.walk()

        await fires(node)


async def test_of_several_brokers_one_loads_it() -> None:
    async with world() as made:
        owner = await scheduled_in_an_hour(made)
        others = [await made.broker(name, limits=NEVER_BY_ITSELF) for name in ("b2", "b3", "b4")]
        await made.kill(owner)
        await until(lambda: any(one.broker.registry.get(TOPIC) for one in others))
        await settle()

        for one in others:
            await one.broker.schedule_rounds.walk()

        assert sum(one.broker.schedule_rounds.visits for one in others) == 1


async def test_a_topic_with_messages_waiting_is_not_unloaded_though_nobody_uses_it() -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        topic = await node.topic()

        await node.broker._maintain(topic)

        await fires(node)


@pytest.mark.parametrize("owners", [1, 2])
async def test_the_mark_goes_when_all_has_fired(owners: int) -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        if owners == 2:
            await made.kill(node)
            node = await made.broker("b2", limits=NEVER_BY_ITSELF)
        assert list(await marks(made)) == [TOPIC]
        await fires(node)
        topic = await node.topic()
        for _ in range(3):
            await topic.maintain()
            await settle()
        assert not topic.log.log.record.has_schedule

        await node.broker.schedule_rounds.walk()

        assert await marks(made) == {}


async def test_the_mark_goes_when_all_was_cancelled_by_an_owner_that_died() -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        topic = await node.topic()
        await topic.schedule.cancel([one.place for one in (await topic.schedule.list()).messages])
        await made.kill(node)
        node = await made.broker("b2", limits=NEVER_BY_ITSELF)
        topic = await node.topic()
        for _ in range(3):
            await topic.maintain()
            await settle()

        await node.broker.schedule_rounds.walk()

        assert await marks(made) == {}


async def test_of_several_marks_the_newest_stays() -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        await made.kill(node)
        node = await made.broker("b2", limits=NEVER_BY_ITSELF)
        publisher = await Publisher.open(node, "p")
        await schedule(publisher, (b"later still", node.clock.wall_ms() + HOUR_MS))
        _, newest = (await marks(made))[TOPIC]

        await node.broker.schedule_rounds.walk()

        assert await marks(made) == {TOPIC: [newest]}


async def test_the_mark_of_a_deleted_topic_goes() -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        await node.broker.lifecycle.delete(TOPIC, force=True)

        await node.broker.schedule_rounds.walk()

        assert await marks(made) == {}


@pytest.mark.parametrize("local", ["orders", "a-b", "0012-x", "é/%2F ü", "x-partition-3"])
def test_a_mark_tells_its_topic_and_its_ledger(local: str) -> None:
    name = f"persistent://public/default/{local}"
    path = paths.scheduled_topic(name, LedgerId(77))

    assert paths.scheduled_topic_of(path.rpartition("/")[2]) == (name, 77)


async def test_a_broker_whose_session_was_lost_loads_it_again() -> None:
    async with world() as made:
        node = await scheduled_in_an_hour(made)
        incarnation = node.broker.incarnation

        node.session.expire()
        await until(lambda: not node.broker.serving)
        await until(lambda: node.broker.serving)
        assert node.broker.incarnation != incarnation

        await fires(node)
