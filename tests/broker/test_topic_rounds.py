"""Topics that nobody uses are visited when something is due, and left alone otherwise."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from broker.ownership import preferred
from broker.settings import BrokerLimits
from broker.topic_rounds import dues_ms_of
from magnetar.errors import AlreadyExists, ConnectionFailed, ConnectionLoss, NotFound
from magnetar.ids import LedgerId
from magnetar.topic import TopicName
from metadata.tenants import NamespaceRecord, NamespaceRepository, TenantRecord, TenantRepository
from metadata.topics import LedgerInfo, TopicRecord
from tenants.administration import TenantAdministration
from tenants.policies import BacklogQuotaPolicy, TopicPolicies
from tests.broker.world import TOPIC, Node, Publisher, Subscriber, World, position_of, until, world

FAST = BrokerLimits(
    idle_unload_s=0.0, topic_round_reads_a_second=1e6, topic_round_visits_a_second=1e6,
)


async def prepared(made: World, policies: TopicPolicies) -> Node:
    """A broker, and the tenant and namespace of the topic."""
    node = await made.broker(policies=policies, limits=FAST)
    for work in (
        TenantRepository(node.session).create(TenantRecord("public")),
        NamespaceRepository(node.session).create(NamespaceRecord("public", "default")),
    ):
        with suppress(AlreadyExists):
            await work
    return node


async def consumed_and_unloaded(made: World, policies: TopicPolicies) -> Node:
    """A topic whose only message is acknowledged and kept, and that is unloaded."""
    node = await prepared(made, policies)
    subscriber = await Subscriber.open(node)
    await (await Publisher.open(node)).publish(b"x")
    await subscriber.receive(1)
    await subscriber.acknowledge(position_of(subscriber.deliveries[0]))
    await unloaded(node)
    return node


async def unloaded(node: Node) -> None:
    topic = await node.topic()
    for session in list(topic.publishing.producers.values()):
        session.close()
    for subscription in topic.subscriptions():
        for consumer in list(subscription.consumers):
            consumer.close()
    await node.broker._maintain(topic)
    assert node.broker.registry.all() == []


async def ledgers_kept(made: World) -> int:
    return len((await made.ground.topics.get(TOPIC))[0].ledgers)


async def visited(node: Node) -> int:
    """How many topics one round loaded; their maintenance is done."""
    before = node.broker.rounds.visits
    await node.broker.rounds.walk()
    for topic in node.broker.registry.all():
        await topic.maintain()
        await topic.maintain()
    return node.broker.rounds.visits - before


async def test_retention_goes_on_for_a_topic_that_nobody_uses() -> None:
    async with world() as made:
        node = await consumed_and_unloaded(made, TopicPolicies(retention_minutes=10))
        assert await visited(node) == 0
        assert await ledgers_kept(made) == 1

        node.clock.wall_offset_ms = 11 * 60_000

        assert await visited(node) == 1
        assert await ledgers_kept(made) == 0


async def test_a_time_to_live_goes_on_too() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies(message_ttl_ms=60_000))
        await Subscriber.open(node, permits=0)
        await (await Publisher.open(node)).publish(b"x")
        await unloaded(node)
        assert await visited(node) == 1  # it might have been consumed under another policy
        await unloaded(node)
        node.clock.wall_offset_ms = 61_000

        assert await visited(node) == 1

        assert await ledgers_kept(made) == 0


async def test_a_topic_for_which_nothing_can_be_done_is_not_visited_again_and_again() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies())
        await Subscriber.open(node, permits=0)
        await (await Publisher.open(node)).publish(b"not consumed")
        await unloaded(node)

        assert await visited(node) == 1
        await unloaded(node)
        assert await visited(node) == 0

        node.clock.wall_offset_ms = 25 * 3_600_000
        assert await visited(node) == 1


async def test_topics_of_a_dead_broker_are_looked_after() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies(retention_minutes=-1))
        await (await Publisher.open(node)).publish(b"x")
        await made.kill(node)
        other = await made.broker("b2", policies=TopicPolicies(retention_minutes=-1), limits=FAST)

        assert await visited(other) == 1

        (info,) = (await made.ground.topics.get(TOPIC))[0].ledgers
        assert info.entries == 1 and info.closed_ms
        await unloaded(other)
        assert await visited(other) == 0


async def test_loaded_topics_and_those_of_living_brokers_are_left_alone() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies())
        other = await made.broker("b2", limits=FAST)
        await (await Publisher.open(node)).publish(b"x")

        assert await visited(node) == await visited(other) == 0


async def test_an_interrupted_deletion_is_finished_without_anybody_asking() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies())
        await (await Publisher.open(node)).publish(b"x")
        record, version = await made.ground.topics.get(TOPIC)
        await made.ground.topics.update(replace(record, deleting=True), version)
        await made.kill(node)
        other = await made.broker("b2", limits=FAST)

        await visited(other)

        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)


async def test_each_topic_is_one_brokers_to_look_after() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies())
        other = await made.broker("b2", limits=FAST)
        names = [f"persistent://public/default/t{number}" for number in range(20)]
        for name in names:
            await made.ground.topics.create(TopicRecord(name, ledgers=(
                LedgerInfo(LedgerId(1), 1, 1, 0, 1, 1),
            )))

        mine = {str(name) async for name in node.broker.rounds._mine()}
        others = {str(name) async for name in other.broker.rounds._mine()}

        assert mine | others == set(names)
        assert not mine & others and mine and others


async def test_ledgers_whose_deletion_is_confirmed_are_forgotten_when_the_topic_is_unloaded() -> (
    None
):
    async with world() as made:
        node = await consumed_and_unloaded(made, TopicPolicies(roll_consumed_idle_ms=1_000))
        node.clock.wall_offset_ms = 15_000
        await visited(node)
        assert (await made.ground.topics.get(TOPIC))[0].doomed_ledgers

        await unloaded(node)

        assert (await made.ground.topics.get(TOPIC))[0].doomed_ledgers == ()
        assert await visited(node) == 0


@pytest.mark.parametrize(
    ("policies", "dues_ms"),
    [
        (TopicPolicies(), [1_000]),
        (TopicPolicies(retention_minutes=2), [121_000]),
        (TopicPolicies(retention_minutes=-1), []),
        (TopicPolicies(retention_minutes=-1, retention_bytes=5), [1_000]),
        (TopicPolicies(retention_minutes=-1, message_ttl_ms=7), [1_007]),
        (TopicPolicies(retention_minutes=1, message_ttl_ms=90_000), [61_000, 91_000]),
        (TopicPolicies(retention_minutes=-1, backlog_quota_age_ms=9), []),
        (TopicPolicies(
            retention_minutes=-1, backlog_quota_age_ms=9, backlog_quota_bytes=1,
            backlog_quota_policy=BacklogQuotaPolicy.EVICT_OLDEST,
        ), [1_009, 1_000]),
    ],
)
def test_when_a_visit_may_free_something(policies: TopicPolicies, dues_ms: list[int]) -> None:
    record = TopicRecord(TOPIC, ledgers=(LedgerInfo(LedgerId(1), 1, 1, 0, 2_000, 1_000),))

    assert dues_ms_of(record, policies) == dues_ms


async def test_policies_of_the_topic_itself_count() -> None:
    async with world() as made:
        node = await prepared(made, TopicPolicies(retention_minutes=-1))
        await (await Publisher.open(node)).publish(b"x")
        await unloaded(node)
        assert await visited(node) == 0

        await TenantAdministration(node.session).change_topic_policies(
            TopicName.parse(TOPIC), {"retention_minutes": 1}
        )
        node.clock.wall_offset_ms = 61_000
        await until(lambda: node.resolver._kept.get(f"topic {TOPIC}") is None or (
            node.resolver._kept[f"topic {TOPIC}"].stored is None
        ))

        assert await visited(node) == 1
        assert await ledgers_kept(made) == 0


async def at_another_than_preferred(made: World, policies: TopicPolicies) -> tuple[Node, Node]:
    """Two brokers; the first serves the topic, which the second would be asked to serve."""
    nodes = [await prepared(made, policies), await made.broker("b2", policies, limits=FAST)]
    chosen = preferred(TOPIC, nodes[0].broker.directory.all())
    assert chosen is not None
    nodes.sort(key=lambda node: node.broker.settings.broker_id == chosen.broker_id)
    return nodes[0], nodes[1]


async def test_a_topic_that_failed_is_looked_after_by_the_broker_its_record_names() -> None:
    async with world() as made:
        node, other = await at_another_than_preferred(made, TopicPolicies(message_ttl_ms=60_000))
        await Subscriber.open(node, permits=0)
        await (await Publisher.open(node)).publish(b"x")
        topic = await node.topic()
        topic.fail(ConnectionFailed("some bookies are silent"))
        node.clock.wall_offset_ms = 61_000

        assert await visited(other) == 0
        assert await visited(node) == 1

        assert await ledgers_kept(made) == 0
        await unloaded(node)
        assert await visited(node) == 0


async def test_a_deletion_that_failed_is_finished_by_the_broker_that_began_it() -> None:
    async with world() as made:
        node, other = await at_another_than_preferred(made, TopicPolicies())
        await (await Publisher.open(node)).publish(b"x")
        ledgers = node.broker._ledgers
        delete = ledgers.delete

        async def silent(_ledger_id: LedgerId) -> None:
            raise ConnectionLoss("the metadata do not answer")

        ledgers.delete = silent  # type: ignore[method-assign]
        with pytest.raises(ConnectionLoss):
            await node.broker.lifecycle.delete(TOPIC, force=True)
        ledgers.delete = delete  # type: ignore[method-assign]

        await visited(other)
        assert (await made.ground.topics.get(TOPIC))[0].deleting
        await visited(node)

        with pytest.raises(NotFound):
            await made.ground.topics.get(TOPIC)
