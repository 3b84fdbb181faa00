"""Why space is not freed: the true holder of each ledger."""

from __future__ import annotations

from broker.conversation import InitialPosition
from broker.space_report import Hold, LedgerSpace, LedgerUse, space_report
from tenants.policies import TopicPolicies
from tests.broker.test_retention import three_ledgers
from tests.broker.world import Node, Publisher, Subscriber, position_of, world

EARLIEST = InitialPosition.EARLIEST


async def ledgers_of(node: Node) -> list[LedgerSpace]:
    report = await space_report(await node.topic())
    return [one for one in report.ledgers if one.use is LedgerUse.MESSAGES]


async def holds_of(node: Node) -> list[list[Hold]]:
    return [[holder.hold for holder in one.held_by] for one in await ledgers_of(node)]


async def checkpointed(node: Node) -> None:
    await (await node.topic()).durable_epoch()


async def test_the_subscription_that_holds_a_ledger_is_named() -> None:
    async with world() as made:
        node, publisher = await three_ledgers(made, TopicPolicies())
        await checkpointed(node)
        fast = await Subscriber.open(node, "fast", initial_position=EARLIEST)
        slow = await Subscriber.open(node, "slow", initial_position=EARLIEST)
        await fast.receive(3)
        await slow.receive(3)
        await fast.acknowledge(cumulative=position_of(fast.deliveries[-1]))
        await slow.acknowledge(cumulative=position_of(slow.deliveries[0]))
        await publisher.publish(b"open")

        ledgers = await ledgers_of(node)

        assert await holds_of(node) == [
            [Hold.DUE], [Hold.UNCONSUMED], [Hold.UNCONSUMED],
            [Hold.OPEN, Hold.UNCONSUMED, Hold.UNCONSUMED],
        ]
        assert [(one.subscription, one.ordinal) for one in ledgers[1].held_by] == [("slow", 1)]
        assert [one.first_ordinal for one in ledgers] == [0, 1, 2, 3]
        assert [one.entries for one in ledgers] == [1, 1, 1, 1]
        assert all(one.size_bytes > 0 for one in ledgers)


async def test_retention_and_the_lack_of_subscriptions_are_told() -> None:
    async with world() as made:
        node, _ = await three_ledgers(made, TopicPolicies())
        await checkpointed(node)
        assert await holds_of(node) == [[Hold.NO_SUBSCRIPTION]] * 3
        topic = await node.topic()

        topic.follow(TopicPolicies(retention_minutes=10), topic.log.log.policy)
        assert await holds_of(node) == [[Hold.RETENTION_TIME]] * 3
        ledger = (await ledgers_of(node))[0]
        assert ledger.held_by[0].until_ms == ledger.last_append_ms + 10 * 60_000

        topic.follow(TopicPolicies(retention_minutes=-1), topic.log.log.policy)
        assert await holds_of(node) == [[Hold.RETENTION_FOR_EVER]] * 3
        size = ledger.size_bytes

        policies = TopicPolicies(retention_minutes=-1, retention_bytes=2 * size)
        topic.follow(policies, topic.log.log.policy)
        assert await holds_of(node) == [
            [Hold.DUE], [Hold.RETENTION_FOR_EVER], [Hold.RETENTION_FOR_EVER]
        ]


async def test_a_checkpoint_that_is_due_is_told() -> None:
    async with world() as made:
        node, _ = await three_ledgers(made, TopicPolicies(retention_minutes=10))
        node.clock.wall_offset_ms = 11 * 60_000
        holds = await holds_of(node)
        assert holds[-1] == [Hold.CHECKPOINT]

        await checkpointed(node)

        assert await holds_of(node) == [[Hold.DUE]] * 3


async def test_state_is_reported_beside_messages() -> None:
    async with world() as made:
        node = await made.broker()
        await Subscriber.open(node)
        await (await Publisher.open(node)).publish(b"x")

        report = await space_report(await node.topic())

        (state,) = (one for one in report.ledgers if one.use is LedgerUse.STATE)
        assert state.size_bytes > 0 and [one.hold for one in state.held_by] == [Hold.IN_USE]
        assert report.size_bytes > state.size_bytes
