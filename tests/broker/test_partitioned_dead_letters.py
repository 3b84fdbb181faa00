"""Where dead letters go: to all partitions of their topic, to another one, to none twice."""

from __future__ import annotations

import pytest

from magnetar.errors import ConnectionFailed, TopicNotFound, TopicTerminated
from magnetar.topic import TopicName
from tests.broker.test_dead_letters import DEAD, dead_payloads
from tests.broker.test_failures_of_an_earlier_owner import next_owner
from tests.broker.test_negative_acknowledgement import subscription_of
from tests.broker.world import Node, Publisher, Subscriber, positions_of, settle, until, world

KEYS = ["a", "b", None, "c", "a", "b", None, "d"]
NAMES = [b"%d" % number for number in range(8)]
OTHER = "persistent://public/default/other"


async def given_up(node: Node, target: str = "") -> Subscriber:
    """A consumer that has given up a batch with keys."""
    one = await Subscriber.open(node, shared=True, max_deliveries=1, dead_letter_topic=target)
    publisher = await Publisher.open(node)
    publisher.session.publish(publisher.batch(*NAMES, partition_keys=KEYS))
    await one.receive(len(NAMES))
    one.session.negative(positions_of(one.deliveries), reason="no")
    return one


async def partitioned(node: Node, partitions: int) -> None:
    await node.broker.catalog.create_topic(TopicName.parse(DEAD), partitions)


async def found(node: Node, partitions: int) -> list[list[bytes]]:
    return [
        await dead_payloads(node, f"{DEAD}-partition-{number}") for number in range(partitions)
    ]


async def test_a_key_goes_to_one_partition_and_what_has_none_to_all() -> None:
    async with world() as made:
        node = await made.broker()
        await partitioned(node, 4)
        await given_up(node)
        subscription = await subscription_of(node)
        await until(lambda: subscription.backlog_messages == 0)

        parts = await found(node, 4)
        assert sorted(name for part in parts for name in part) == NAMES
        for names in ([b"0", b"4"], [b"1", b"5"]):
            assert sum([name for name in part if name in names] == names for part in parts) == 1
        assert sum(bool(part) for part in parts) > 1
        assert subscription.dead_lettered_messages == 8


async def test_what_may_be_in_a_partition_goes_to_no_other_when_there_are_more() -> None:
    async with world() as made:
        node = await made.broker("b1")
        await partitioned(node, 2)
        made.forwarder.lose_answers = True
        await given_up(node)
        subscription = await subscription_of(node)
        await until(lambda: len(made.forwarder.batches) > 0)
        assert subscription.forward_plans
        second = await next_owner(made, node)
        await second.broker.catalog.grow_topic(TopicName.parse(DEAD), 7)
        made.forwarder.lose_answers = False
        subscription = await subscription_of(second)
        await until(lambda: subscription.backlog_messages == 0)

        assert sorted(name for part in await found(second, 7) for name in part) == NAMES


async def test_what_waits_for_a_partition_stays_there_and_goes_when_it_can() -> None:
    async with world() as made:
        node = await made.broker()
        await partitioned(node, 2)
        for number in range(2):
            made.forwarder.failing[f"{DEAD}-partition-{number}"] = ConnectionFailed("not now")
        await given_up(node)
        await until(lambda: made.forwarder.openings > 6)
        topic = await node.topic()
        assert topic.lanes.waiting_messages == 8
        assert "not now" in topic.lanes.problems["s"]

        made.forwarder.failing.clear()
        subscription = await subscription_of(node)
        await until(lambda: subscription.backlog_messages == 0)

        parts = await found(node, 2)
        assert sorted(name for part in parts for name in part) == NAMES
        assert all(part == sorted(part) for part in parts)


async def test_what_may_be_in_a_former_dead_letter_topic_goes_to_no_other() -> None:
    async with world() as made:
        node = await made.broker()
        made.forwarder.lose_answers = True
        one = await given_up(node)
        await until(lambda: len(made.forwarder.batches) > 0)
        made.forwarder.failing[DEAD] = ConnectionFailed("cannot be asked now")
        one.session.close()
        subscription = await subscription_of(node)
        await subscription.flushed()
        assert subscription.forward_plans
        second = await next_owner(made, node)
        made.forwarder.lose_answers = False

        two = await Subscriber.open(
            second, shared=True, max_deliveries=1, dead_letter_topic="other")
        await settle()
        assert await dead_payloads(second, OTHER) == []
        made.forwarder.failing.clear()
        subscription = await subscription_of(second)
        await until(lambda: subscription.backlog_messages == 0)

        assert await dead_payloads(second) == NAMES
        assert await dead_payloads(second, OTHER) == two.payloads == []


async def test_what_waits_at_the_next_owner_follows_to_another_topic_too() -> None:
    async with world() as made:
        node = await made.broker()
        made.forwarder.gate.clear()
        await given_up(node)
        subscription = await subscription_of(node)
        await until(lambda: bool(subscription.forward_plans))
        made.forwarder.failing[DEAD] = ConnectionFailed("cannot be asked now")
        second = await next_owner(made, node)
        made.forwarder.gate.set()
        topic = await second.topic()
        await until(lambda: topic.lanes.waiting_messages == 8)

        subscription = await subscription_of(second)
        subscription.options.dead_letter_topic = OTHER
        made.forwarder.failing[DEAD] = TopicNotFound("it was deleted")
        await until(lambda: subscription.backlog_messages == 0)

        assert await dead_payloads(second, OTHER) == NAMES


async def test_what_a_terminated_topic_refused_follows_to_another() -> None:
    async with world() as made:
        node = await made.broker()
        made.forwarder.gate.clear()
        await given_up(node)
        subscription = await subscription_of(node)
        await until(lambda: bool(subscription.forward_plans))
        await (await node.topic(DEAD)).terminate()
        made.forwarder.gate.set()
        topic = await node.topic()
        await until(lambda: "terminated" in str(topic.lanes.problems))

        subscription.options.dead_letter_topic = OTHER
        await until(lambda: subscription.backlog_messages == 0)

        assert await dead_payloads(node, OTHER) == NAMES


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_topic_that_never_tells_again_keeps_nothing_back(restarted: bool) -> None:
    """Whether it has the messages cannot be found out, so they may be written twice."""
    async with world() as made:
        node = await made.broker()
        made.forwarder.lose_answers = True
        await given_up(node)
        await until(lambda: len(made.forwarder.batches) > 0)
        made.forwarder.failing[DEAD] = TopicTerminated("it takes no messages")
        if restarted:
            node = await next_owner(made, node)
        made.forwarder.lose_answers = False
        topic = await node.topic()
        await until(lambda: "takes no messages" in str(topic.lanes.problems))
        await until(lambda: topic.lanes.waiting_messages == 8)

        subscription = await subscription_of(node)
        subscription.options.dead_letter_topic = OTHER
        await until(lambda: subscription.backlog_messages == 0)

        assert await dead_payloads(node, OTHER) == NAMES
