"""Why a topic takes the space it takes, and what its stats say about backlogs and schedules."""

from __future__ import annotations

import pytest

from magnetar.admin.schedule_values import ScheduleOutcome
from magnetar.enums import InitialPosition
from magnetar.errors import InvalidArgument
from magnetar.scheduled_id import ScheduledId
from magnetar.topic import TopicName
from tenants.policies import TopicPolicies
from tests.broker.administered import Directly
from tests.broker.schedule.scheduled import HOUR_MS, schedule
from tests.broker.world import TOPIC, Node, Publisher, until, world

EARLIEST = InitialPosition.Earliest
PARTITIONED = "persistent://public/default/parts"


async def test_what_keeps_each_ledger_is_told_through_another_broker() -> None:
    async with world() as made:
        between = Directly()
        owner = await made.broker("b1", policies=TopicPolicies(retention_minutes=60))
        between.add(owner)
        admin = between.add(await made.broker("b2")).topics
        await (await Publisher.open(owner, "p")).publish(b"x")
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)

        report = await admin.topics.why_space(TOPIC)

        assert report.storage_bytes == sum(one.size_bytes for one in report.ledgers) > 0
        messages = next(one for one in report.ledgers if one.use == "messages")
        reasons = {held.reason: held for held in messages.held_by}
        assert "being written" in reasons["open"].text
        assert reasons["unconsumed"].subscription == "s"
        assert any(one.use == "state" and one.held_by[0].reason == "in_use"
                   for one in report.ledgers)

        await admin.subscriptions.clear_backlog(TOPIC, "s")
        await (await owner.topic()).log.log.roll()
        report = await admin.topics.why_space(TOPIC)
        messages = next(one for one in report.ledgers if one.use == "messages")
        held = next(one for one in messages.held_by if one.reason == "retention_time")
        assert held.until_ms > owner.clock.wall_ms() + 59 * 60_000


async def test_space_of_partitions_is_summed() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        await admin.topics.create(PARTITIONED, 2)
        publisher = await Publisher.open(node, "p", topic=f"{PARTITIONED}-partition-1")
        await publisher.publish(b"x")

        report = await admin.topics.why_space(PARTITIONED)

        assert [len(one.ledgers) > 0 for one in report.partitions] == [False, True]
        assert report.storage_bytes == report.partitions[1].storage_bytes > 0


async def test_the_backlog_and_its_quota_are_told() -> None:
    async with world() as made:
        node = await made.broker(policies=TopicPolicies(backlog_quota_bytes=100))
        admin = Directly().add(node).topics
        await admin.topics.create(TOPIC)
        await admin.subscriptions.create(TOPIC, "s", EARLIEST)
        await (await Publisher.open(node, "p")).publish(b"x" * 200)

        stats = await admin.topics.stats(TOPIC)

        assert stats.quota is not None
        assert stats.quota.backlog_bytes > stats.quota.limit_bytes == 100
        assert stats.quota.slowest_subscription == "s" and "bytes of backlog" in stats.quota.problem
        assert [one.reason for one in stats.blocked] == ["backlog_quota"]


async def scheduled(node: Node, topic: str, *hours: int) -> list[ScheduledId]:
    publisher = await Publisher.open(node, "p", topic=topic)
    now_ms = node.clock.wall_ms()
    found = []
    for number in hours:
        receipt = await schedule(publisher, (b"%d" % number, now_ms + number * HOUR_MS))
        assert receipt.error is None
        partition = TopicName.parse(topic).partition
        found.append(ScheduledId(partition, receipt.ledger_id, receipt.entry_id, 0))
    return found


async def test_what_waits_is_listed_cancelled_and_moved_through_another_broker() -> None:
    async with world() as made:
        between = Directly()
        owner, other = await made.broker("b1"), await made.broker("b2")
        between.add(owner)
        admin = between.add(other).topics
        one, two = await scheduled(owner, TOPIC, 1, 2)

        first = await admin.schedule.list(TOPIC, page_size=1)
        rest = await admin.schedule.list(TOPIC, page_size=1, page=first.next_page)
        assert [page.messages[0].scheduled_id for page in (first, rest)] == [one, two]
        assert rest.next_page == "" and first.messages[0].producer_name == "p"
        assert (await admin.topics.stats(TOPIC)).next_due_ms == first.messages[0].deliver_at_ms
        assert await admin.schedule.cancel(TOPIC, one) is ScheduleOutcome.CANCELLED
        due_ms = owner.clock.wall_ms() + 9 * HOUR_MS
        assert await admin.schedule.move(TOPIC, two, due_ms) is ScheduleOutcome.MOVED
        assert await admin.schedule.count(TOPIC) == 1
        assert not (await admin.schedule.list(TOPIC, until_ms=due_ms)).messages
        assert await admin.schedule.cancel(TOPIC, one) is ScheduleOutcome.CANCELLED
        nowhere = ScheduledId(-1, 99, 0, 0)
        assert await admin.schedule.cancel(TOPIC, nowhere) is ScheduleOutcome.UNKNOWN
        with pytest.raises(InvalidArgument):
            await admin.schedule.cancel(TOPIC, ScheduledId(4, 99, 0, 0))


async def test_schedules_of_partitions_are_listed_one_after_the_other() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        await admin.topics.create(PARTITIONED, 3)
        ids = await scheduled(node, f"{PARTITIONED}-partition-0", 5, 6)
        ids += await scheduled(node, f"{PARTITIONED}-partition-2", 1)

        found, page = [], ""
        for _ in range(9):
            part = await admin.schedule.list(PARTITIONED, page_size=2, page=page)
            found += [one.scheduled_id for one in part.messages]
            page = part.next_page
            if not page:
                break

        assert found == ids and await admin.schedule.count(PARTITIONED) == 3
        assert (await admin.topics.stats(PARTITIONED)).scheduled_messages == 3
        assert await admin.schedule.cancel(PARTITIONED, ids[2]) is ScheduleOutcome.CANCELLED
        for wrong in ("x", "9/", "0/zzz"):
            with pytest.raises(InvalidArgument):
                await admin.schedule.list(PARTITIONED, page=wrong)


async def test_a_peeked_message_says_that_it_was_scheduled() -> None:
    async with world() as made:
        node = await made.broker()
        admin = Directly().add(node).topics
        await admin.topics.create(TOPIC)
        await admin.subscriptions.create(TOPIC, "s")
        (waits,) = await scheduled(node, TOPIC, 1)
        node.clock.wall_offset_ms += 2 * HOUR_MS
        topic = await node.topic()
        topic.schedule.fire()
        await until(lambda: topic.log.end_ordinal == 1)

        (message,) = await admin.subscriptions.peek(TOPIC, "s")

        assert (message.scheduled_id, message.producer_name) == (waits, "p")
