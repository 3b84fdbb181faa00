"""When ledgers go."""

from __future__ import annotations

from broker.conversation import InitialPosition
from broker.settings import BrokerLimits
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


# --- the open ledger


async def consumed_topic(made: World, policies: TopicPolicies, *payloads: bytes) -> Node:
    """All of it acknowledged, in one open ledger."""
    node = await made.broker(policies=policies)
    subscriber = await Subscriber.open(node)
    publisher = await Publisher.open(node, "p")
    for payload in payloads:
        await publisher.publish(payload)
    await subscriber.receive(len(payloads))
    await subscriber.acknowledge(cumulative=position_of(subscriber.deliveries[-1]))
    return node


async def test_a_consumed_topic_that_went_idle_keeps_nothing() -> None:
    async with world() as made:
        payload = bytes(1 << 19)
        policies = TopicPolicies(roll_consumed_idle_ms=20_000)
        node = await consumed_topic(made, policies, payload, payload, payload)
        node.clock.wall_offset_ms = 19_000
        assert await kept(node) == 1

        node.clock.wall_offset_ms = 20_000

        assert await kept(node) == 0


async def test_a_topic_with_a_message_now_and_then_gets_no_ledger_for_each() -> None:
    async with world() as made:
        node = await consumed_topic(made, TopicPolicies(roll_consumed_idle_ms=20_000), b"x")
        node.clock.wall_offset_ms = 299_000
        assert await kept(node) == 1

        node.clock.wall_offset_ms = 300_000

        assert await kept(node) == 0


async def test_a_half_consumed_ledger_is_rolled_once_much_of_it_is_consumed() -> None:
    async with world() as made:
        policies = TopicPolicies(roll_consumed_bytes=64 * 1024)
        payload = b"x" * 16 * 1024
        node = await consumed_topic(made, policies, payload, payload)
        publisher = await Publisher.open(node, "p")
        await publisher.publish(b"unconsumed")
        assert await kept(node) == 1
        topic = await node.topic()
        assert topic.retention.open_ledger() is not None
        subscriber = topic.state.subscriptions["s"]
        for _ in range(3):
            await publisher.publish(payload)
        subscriber.pass_range(2, 6)
        await subscriber.flushed()
        await publisher.publish(b"unconsumed")

        assert await kept(node) == 1
        assert topic.retention.open_ledger() is None
        subscriber.pass_range(6, 7)
        await subscriber.flushed()

        assert await kept(node) == 0


async def test_an_idle_ledger_that_retention_keeps_is_not_rolled_before_its_time() -> None:
    async with world() as made:
        node = await consumed_topic(made, TopicPolicies(retention_minutes=10), b"x")
        node.clock.wall_offset_ms = 9 * 60_000
        assert await kept(node) == 1
        assert (await node.topic()).retention.open_ledger() is not None

        node.clock.wall_offset_ms = 10 * 60_000 + 1_000

        assert await kept(node) == 0


async def test_retention_counts_from_a_ledgers_newest_message_not_from_its_closing() -> None:
    async with world() as made:
        node = await consumed_topic(made, TopicPolicies(retention_minutes=10), b"x")
        node.clock.wall_offset_ms = 8 * 60_000
        await (await node.topic()).log.log.roll()
        assert await kept(node) == 1

        node.clock.wall_offset_ms = 10 * 60_000 + 1_000

        assert await kept(node) == 0


async def test_a_topic_without_subscriptions_keeps_to_a_retention_of_bytes_alone() -> None:
    async with world() as made:
        policies = TopicPolicies(retention_minutes=-1, retention_bytes=200)
        node, _ = await three_ledgers(made, policies)

        assert 0 < await kept(node) < 3


async def test_messages_are_kept_for_ever_where_that_is_the_policy() -> None:
    async with world() as made:
        node = await consumed_topic(made, TopicPolicies(retention_minutes=-1), b"x", b"y")
        await (await node.topic()).log.log.roll()
        node.clock.wall_offset_ms = 10 * 365 * 24 * 3_600_000

        assert await kept(node) == 1


async def test_expired_messages_free_their_space_without_a_consumer() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(message_ttl_ms=60_000))
        (await Subscriber.open(node)).session.close()
        await (await Publisher.open(node)).publish(b"x")
        node.clock.wall_offset_ms = 400_000
        await kept(node)

        assert await kept(node) == 0


# --- sizes


async def test_a_recovered_ledger_has_its_size() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(checkpoint_entries=3))
        publisher = await Publisher.open(node, "p")
        for number in range(10):
            await publisher.publish(b"x" * 100 * number)
        topic = await node.topic()
        size_bytes, (info,) = topic.log.log.size_bytes, topic.log.log.record.ledgers
        await settle()
        await made.kill(node)

        other = await made.broker("b2")
        topic = await other.topic()

        (recovered,) = topic.log.log.record.ledgers
        assert recovered.ledger_id == info.ledger_id
        assert topic.log.log.bytes_of(recovered) == topic.log.log.size_bytes == size_bytes > 4_500
        await topic.maintain()
        stored, _ = await made.ground.topics.get(topic.name)
        assert stored.ledgers[0].size_bytes == size_bytes


async def test_sizes_and_first_ordinals_are_recorded_when_ledgers_end() -> None:
    async with world() as made:
        node, publisher = await three_ledgers(made, TopicPolicies())
        await publisher.publish(b"open")
        topic = await node.topic()

        ledgers = topic.log.log.record.ledgers

        assert [one.first_ordinal for one in ledgers] == [0, 1, 2, 0]
        assert all(one.size_bytes > 0 for one in ledgers[:3])
        assert topic.log.index.first_ordinal_of(ledgers[3].ledger_id) == 3
