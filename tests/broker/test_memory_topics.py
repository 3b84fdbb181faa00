"""Non-persistent topics: everything in one broker's memory, and nothing anywhere else."""

from __future__ import annotations

import asyncio

import pytest

from broker.administration.stats import topic_stats
from broker.conversation import Access, AccessMode, InitialPosition, MessagePosition
from broker.memory_keeper import MemoryKeeper
from broker.ownership import ProbeResult, preferred
from broker.settings import BrokerLimits
from broker.space_report import LedgerUse, space_report
from broker.topic import Topic
from magnetar.errors import (
    InvalidArgument,
    MagnetarError,
    NotOwner,
    NotSupported,
    TopicNotFound,
)
from magnetar.topic import TopicName
from metadata.topics import TopicRepository
from tenants.policies import TopicPolicies
from tests.broker.world import (
    Node,
    Publisher,
    Subscriber,
    World,
    position_of,
    settle,
    until,
    world,
)

NAME = "non-persistent://public/default/ticks"
EARLIEST = InitialPosition.EARLIEST
SMALL = BrokerLimits(memory_topic_bytes=4_000, memory_segment_bytes=1_000)
BOOKIES = ("k1", "k2", "k3")


def keeper_of(topic: Topic) -> MemoryKeeper:
    assert topic.memory is not None
    return topic.memory


async def publisher_of(node: Node, name: str = "", topic: str = NAME) -> Publisher:
    return await Publisher.open(node, name, topic=topic)


async def subscriber_of(node: Node, subscription: str = "s", **options: object) -> Subscriber:
    return await Subscriber.open(node, subscription, topic=NAME, **options)  # type: ignore[arg-type]


async def owner_and_other(made: World, topic: str = NAME) -> tuple[Node, Node]:
    """Who serves the topic, of two brokers."""
    nodes = [await made.broker("b1"), await made.broker("b2")]
    found = await nodes[0].broker.lookup(topic)
    mine = [str(one.broker.address) == found.owner_address for one in nodes]
    return (nodes[0], nodes[1]) if mine[0] else (nodes[1], nodes[0])


async def test_nothing_is_written_anywhere() -> None:
    async with world() as made:
        node = await made.broker()
        for name in BOOKIES:
            made.ground.bookies[name].held = True  # nobody would answer
        publisher = await publisher_of(node, "p")
        subscriber = await subscriber_of(node)

        publisher.session.publish(publisher.batch(b"1", b"2"))
        await settle(3)

        assert publisher.receipts[0].error is None, "at once"
        assert await subscriber.receive(2) == [b"1", b"2"]
        assert await subscriber.acknowledge(position_of(subscriber.deliveries[0])) is None
        with pytest.raises(MagnetarError):
            await TopicRepository(node.session).get(NAME)
        assert await TopicRepository(node.session).list("public", "default") == []
        assert not any(made.ground.bookies[name].ledgers for name in BOOKIES)


async def test_subscriptions_filters_seeks_and_redelivery_work_as_ever() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await publisher_of(node)
        receipts = [await publisher.publish(b"%d" % number) for number in range(4)]
        everything = await subscriber_of(node, "all", initial_position=EARLIEST)
        shared = [
            await subscriber_of(node, "half", shared=True, initial_position=EARLIEST, permits=2)
            for _ in range(2)
        ]
        assert await everything.receive(4) == [b"0", b"1", b"2", b"3"]
        await until(lambda: sum(len(one.payloads) for one in shared) == 4)

        assert await everything.acknowledge(
            cumulative=position_of(everything.deliveries[1])) is None
        everything.session.close()
        again = await subscriber_of(node, "all")
        assert await again.receive(2) == [b"2", b"3"], "the subscription stayed"
        again.session.redeliver([position_of(again.deliveries[0])])
        await until(lambda: again.payloads.count(b"2") == 2)
        await again.session.seek(MessagePosition(receipts[1].ledger_id, receipts[1].entry_id))
        await until(lambda: again.payloads[-3:] == [b"1", b"2", b"3"])
        reader = await subscriber_of(node, "", initial_position=EARLIEST)
        assert await reader.receive(4) == [b"0", b"1", b"2", b"3"]


async def test_the_oldest_are_dropped_and_counted() -> None:
    async with world() as made:
        node = await made.broker(limits=SMALL)
        topic = await node.topic(NAME)
        publisher = await publisher_of(node)
        slow = await subscriber_of(node, "slow", permits=15)
        fast = await subscriber_of(node, "fast")

        for number in range(100):
            if number == 15:
                await slow.receive(15)
                await slow.acknowledge(cumulative=position_of(slow.deliveries[-1]))
            await publisher.publish(b"%03d" % number + bytes(100))
            await fast.receive(number + 1)
            await fast.acknowledge(position_of(fast.deliveries[-1]))

        keeper = keeper_of(topic)
        left = topic.state.subscriptions["slow"].backlog_messages
        assert topic.log.log.size_bytes <= 4_000 + 1_000
        assert 10 < left < 50 and keeper.dropped_messages == 85 - left
        assert keeper.dropped_of == {"slow": 85 - left}, "who has everything loses nothing"
        assert node.broker.counters.dropped_messages == 85 - left
        slow.session.add_permits(1_000)
        received = [one[:3] for one in (await slow.receive(15 + left))[15:]]
        assert received == [b"%03d" % number for number in range(100 - left, 100)]


async def test_all_topics_together_have_a_bound_and_the_idle_one_loses_first() -> None:
    limits = BrokerLimits(
        memory_bytes=10_000, memory_topic_bytes=8_000, memory_segment_bytes=1_000)
    async with world() as made:
        node = await made.broker(limits=limits)
        idle, busy = f"{NAME}-idle", f"{NAME}-busy"
        publishers = {name: await publisher_of(node, topic=name) for name in (busy, idle)}
        for name, count in ((busy, 10), (idle, 30), (busy, 40)):
            for _ in range(count):
                await publishers[name].publish(bytes(100))

        left = {name: (await node.topic(name)).log.log.size_bytes for name in (idle, busy)}

        assert sum(left.values()) <= 10_000 and left[busy] > 5_000
        assert left[idle] < 6_000 and keeper_of(await node.topic(idle)).dropped_messages > 0


async def test_its_statistics_are_those_of_any_topic() -> None:
    async with world() as made:
        node = await made.broker()
        await subscriber_of(node)
        await (await publisher_of(node, "p")).publish(b"1", b"2")

        stats = await topic_stats(await node.broker.existing_topic(NAME), "b1", 0.0)

        assert (stats.messages, stats.entries, len(stats.ledgers)) == (2, 1, 1)
        report = await space_report(await node.topic(NAME))
        assert [one.use for one in report.ledgers] == [LedgerUse.MESSAGES]
        assert stats.storage_bytes > 0 and stats.subscriptions[0].backlog_messages == 2
        assert await node.broker.catalog.partitions_of(TopicName.parse(NAME)) == 0


async def test_what_is_consumed_is_freed() -> None:
    async with world() as made:
        node = await made.broker()
        topic = await node.topic(NAME)
        publisher, subscriber = await publisher_of(node), await subscriber_of(node)
        await publisher.publish(b"x")
        await subscriber.receive(1)
        await subscriber.acknowledge(position_of(subscriber.deliveries[0]))
        node.clock.wall_offset_ms = 3_600_000

        await topic.maintain()

        assert topic.log.log.size_bytes == 0 and keeper_of(topic).dropped_messages == 0
        await publisher.publish(b"y")
        assert await subscriber.receive(2) == [b"x", b"y"]


async def test_what_a_topic_has_is_lost_with_it_and_counted() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await publisher_of(node)
        subscriber = await subscriber_of(node, permits=0)
        await publisher.publish(b"1", b"2", b"3")

        await node.broker.registry.unload(await node.topic(NAME))

        assert isinstance(subscriber.ended[0], NotOwner)
        assert node.broker.counters.dropped_messages == 3
        topic = await node.topic(NAME)
        assert topic.log.end_ordinal == 0 and not topic.state.subscriptions


async def test_every_broker_names_the_same_one() -> None:
    async with world() as made:
        owner, other = await owner_and_other(made)
        names = [f"{NAME}-{number}" for number in range(40)]
        found = [
            [(await node.broker.lookup(name)).owner_address for name in names]
            for node in (owner, other)
        ]
        assert found[0] == found[1] and len(set(found[0])) == 2
        other.probe.result = ProbeResult.ALIVE
        with pytest.raises(NotOwner):
            await publisher_of(other)
        with pytest.raises(NotOwner):
            await other.broker.existing_topic(NAME)


async def test_topics_move_when_brokers_come_and_go() -> None:
    async with world() as made:
        first = await made.broker("b1")
        names = [f"{NAME}-{number}" for number in range(20)]
        publishers = [await publisher_of(first, topic=name) for name in names]

        second = await made.broker("b2")

        found = [(await first.broker.lookup(name)).owner_address for name in names]
        moved = [address == str(second.broker.address) for address in found]
        assert any(moved) and not all(moved)
        assert [bool(one.ended) for one in publishers] == moved
        here = names[moved.index(True)]
        await (await publisher_of(second, topic=here)).publish(b"x")
        await made.stop(second)
        await until(lambda: len(first.broker.directory.all()) == 1)
        await (await publisher_of(first, topic=here)).publish(b"y")


@pytest.mark.parametrize("result", [ProbeResult.REFUSED, ProbeResult.SILENT])
async def test_a_broker_that_does_not_answer_is_passed_over(result: ProbeResult) -> None:
    async with world() as made:
        owner, other = await owner_and_other(made)
        address = str(owner.broker.address)
        other.probe.result = ProbeResult.ALIVE
        assert (await other.broker.lookup(NAME, address)).relay
        assert await other.broker.owner_address(NAME) == owner.broker.address
        other.probe.result = result
        other.clock.ahead_s += 2

        found = await other.broker.lookup(NAME, address)

        assert found.owner_address == str(other.broker.address)
        publisher = await publisher_of(other)
        topic = await other.topic(NAME)
        other.clock.ahead_s += 20
        assert await other.broker._memory.keep_or_leave(topic), "still silent"
        other.probe.result = ProbeResult.ALIVE
        other.clock.ahead_s += 20
        assert not await other.broker._memory.keep_or_leave(topic)
        assert isinstance(publisher.ended[0], NotOwner)


async def test_who_is_sent_to_the_next_broker_is_served_there_if_the_first_is_dead() -> None:
    async with world() as made:
        _, other = await owner_and_other(made)
        other.probe.result = ProbeResult.REFUSED

        await (await publisher_of(other)).publish(b"x")

        asked = len(other.probe.asked)
        await asyncio.gather(*(publisher_of(other, f"p{number}") for number in range(5)))
        assert len(other.probe.asked) == asked, "one probe is enough"


async def test_the_next_choice_is_the_same_for_all_who_pass_one_over() -> None:
    async with world() as made:
        nodes = [await made.broker(f"b{number}") for number in (1, 2, 3)]
        all_of_them = nodes[0].broker.directory.all()
        dead = preferred(NAME, all_of_them)
        assert dead is not None
        left = tuple(one for one in all_of_them if one is not dead)
        following = preferred(NAME, left)
        assert following is not None

        for node in nodes:
            if node.broker.settings.broker_id != dead.broker_id:
                node.probe.result = ProbeResult.REFUSED
                found = await node.broker.lookup(NAME, str(dead.address))
                assert found.owner_address == str(following.address)


async def test_what_makes_no_sense_is_refused_clearly() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await publisher_of(node)

        publisher.session.publish(publisher.batch(b"later", deliver_at_ms=[1 << 41]))
        await until(lambda: bool(publisher.receipts))

        refused = publisher.receipts[0].error
        assert isinstance(refused, NotSupported) and "not persistent" in str(refused)
        for mode in list(AccessMode)[1:]:
            with pytest.raises(NotSupported, match="not persistent"):
                await Publisher.open(node, topic=NAME, access=Access(mode))
        lifecycle = node.broker.lifecycle
        for end in (lifecycle.terminate, lifecycle.truncate, lifecycle.delete):
            with pytest.raises(InvalidArgument, match="not persistent"):
                await end(NAME)


async def test_creation_by_use_follows_the_policy() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(auto_create_topics=False))
        for use in (node.broker.lookup(NAME), publisher_of(node), subscriber_of(node)):
            with pytest.raises(TopicNotFound):
                await use
        with pytest.raises(TopicNotFound):
            await node.broker.lookup(NAME, create=False)


async def test_an_idle_topic_ends() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(idle_unload_s=1))
        publisher = await publisher_of(node)
        await publisher.publish(b"x")
        publisher.session.close()
        topic = await node.topic(NAME)
        node.clock.ahead_s += 2

        await node.broker._maintain(topic)

        assert node.broker.registry.get(NAME) is None
        assert node.broker._memory.budget.used_bytes == 0
