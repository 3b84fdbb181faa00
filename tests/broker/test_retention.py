"""When ledgers go."""

from __future__ import annotations

from broker.conversation import InitialPosition
from tenants.policies import TopicPolicies
from tests.broker.world import Node, Publisher, Subscriber, World, position_of, settle, until, world

EARLIEST = InitialPosition.EARLIEST


async def three_ledgers(made: World, policies: TopicPolicies) -> tuple[Node, Publisher]:
    node = await made.broker(policies=policies)
    publisher = await Publisher.open(node, "p")
    for number in range(3):
        await publisher.publish(b"%d" % number)
        await (await node.topic()).log.log.roll()
    return node, publisher


async def kept(node: Node) -> int:
    topic = await node.topic()
    await topic.maintain()
    await settle()
    return len(topic.log.log.record.ledgers)


async def test_consumed_ledgers_go_and_others_stay() -> None:
    async with world() as made:
        node, _ = await three_ledgers(made, TopicPolicies())
        assert await kept(node) == 3  # nobody has subscribed yet: nothing is deleted
        fast = await Subscriber.open(node, "fast", initial_position=EARLIEST)
        slow = await Subscriber.open(node, "slow", initial_position=EARLIEST)
        await fast.receive(3)
        await slow.receive(3)
        await fast.acknowledge(*map(position_of, fast.deliveries))
        await slow.acknowledge(position_of(slow.deliveries[0]))
        await slow.acknowledge(position_of(slow.deliveries[2]))
        topic = await node.topic()
        await topic.maintain()
        await until(lambda: not topic.state.checkpoint_is_due)

        assert await kept(node) == 2
        await slow.acknowledge(position_of(slow.deliveries[1]))
        assert await kept(node) == 0


async def test_retention_keeps_consumed_ledgers_by_age_and_size() -> None:
    async with world() as made:
        node, _ = await three_ledgers(made, TopicPolicies(retention_minutes=10))
        subscriber = await Subscriber.open(node, initial_position=EARLIEST)
        await subscriber.receive(3)
        await subscriber.acknowledge(cumulative=position_of(subscriber.deliveries[-1]))
        await kept(node)
        assert await kept(node) == 3

        node.clock.wall_offset_ms = 11 * 60_000
        assert await kept(node) == 0


async def test_retention_bytes_bound_what_is_kept() -> None:
    async with world() as made:
        policies = TopicPolicies(retention_minutes=-1, retention_bytes=200)
        node, _ = await three_ledgers(made, policies)
        subscriber = await Subscriber.open(node, initial_position=EARLIEST)
        await subscriber.receive(3)
        await subscriber.acknowledge(cumulative=position_of(subscriber.deliveries[-1]))
        await kept(node)

        assert 0 < await kept(node) < 3


async def test_a_topic_without_subscriptions_keeps_to_its_retention() -> None:
    async with world() as made:
        node, _ = await three_ledgers(made, TopicPolicies(retention_minutes=10))
        await kept(node)
        assert await kept(node) == 3

        node.clock.wall_offset_ms = 11 * 60_000

        assert await kept(node) == 0


async def test_an_old_consumed_ledger_is_rolled_so_that_it_can_go() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(max_ledger_age_ms=1_000))
        subscriber = await Subscriber.open(node)
        await (await Publisher.open(node, "p")).publish(b"x")
        await subscriber.receive(1)
        await subscriber.acknowledge(position_of(subscriber.deliveries[0]))
        assert await kept(node) == 1

        node.clock.wall_offset_ms = 2_000
        await kept(node)

        assert await kept(node) == 0
        reader = await Subscriber.open(node, "", initial_position=EARLIEST)
        await (await Publisher.open(node, "p")).publish(b"y")
        assert await reader.receive(1) == [b"y"]
