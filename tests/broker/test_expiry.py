"""Messages that have waited too long: passed over, counted, and never one too early."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from broker.backlog import clear_backlog, expire_messages, skip_messages
from broker.conversation import Delivery, InitialPosition
from broker.expiry import Expiry
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from broker.subscription import Subscription
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import InvalidArgument
from magnetar.runtime.clock import SystemClock
from tenants.policies import TopicPolicies
from tests.broker.world import Node, Publisher, Subscriber, position_of, settle, until, world

EARLIEST = InitialPosition.EARLIEST
MINUTE = TopicPolicies(message_ttl_ms=60_000)
SMALL_TURNS = BrokerLimits(read_ahead_entries=3)


async def subscription_of(node: Node, name: str = "s") -> Subscription:
    return (await node.topic()).state.subscriptions[name]


async def maintained(node: Node) -> None:
    """Long enough for a backlog that does not move to be looked at."""
    topic = await node.topic()
    for _ in range(2):
        await topic.maintain()
    for one in topic.state.subscriptions.values():
        await one.flushed()


async def publish_at(node: Node, publisher: Publisher, second: int, *payloads: bytes) -> None:
    node.clock.wall_offset_ms = second * 1000
    await publisher.publish(*payloads)


async def publish_with(publisher: Publisher, *ttls_ms: int) -> None:
    """One batch; each message's payload tells its time to live."""
    payloads = [b"%d" % ttl for ttl in ttls_ms]
    before = len(publisher.receipts)
    publisher.session.publish(publisher.batch(*payloads, expires_after_ms=list(ttls_ms)))
    await until(lambda: len(publisher.receipts) > before)
    assert publisher.receipts[-1].error is None


async def test_what_waited_longer_than_the_topic_allows_is_not_delivered() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        await publish_at(node, publisher, 0, b"old", b"old too")
        await publish_at(node, publisher, 30, b"young")
        node.clock.wall_offset_ms = 61_000

        subscriber.session.add_permits(10)

        assert await subscriber.receive(1) == [b"young"]
        subscription = await subscription_of(node)
        assert subscription.expiry.expired_messages == 2
        assert subscription.backlog_messages == 1


async def test_expired_messages_stay_acknowledged_at_the_next_owner() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        subscriber = await Subscriber.open(node, permits=0)
        await publish_at(node, await Publisher.open(node), 0, b"old")
        node.clock.wall_offset_ms = 61_000
        subscriber.session.add_permits(1)
        subscription = await subscription_of(node)
        await until(lambda: subscription.durable_floor == 1)
        await made.kill(node)

        other = await made.broker("b2")  # with no time to live at all

        assert (await subscription_of(other)).backlog_messages == 0


async def test_expiry_is_to_the_millisecond() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        await Subscriber.open(node, permits=0)
        receipt = await (await Publisher.open(node)).publish(b"x")
        subscription = await subscription_of(node)
        entry = node.broker.cache.get(receipt.ledger_id, receipt.entry_id)
        assert entry is not None
        clock = StoppedClock()
        expiry = Expiry(subscription, clock)

        clock.now_ms = entry.append_time_ms + 59_999
        expiry.begin_turn()
        assert expiry.expired_of(entry, 1) == 0
        clock.now_ms += 1
        expiry.begin_turn()
        assert expiry.expired_of(entry, 1) == 1


class StoppedClock(SystemClock):
    now_ms = 0

    def wall_ms(self) -> int:
        return self.now_ms


async def test_a_message_may_say_itself_how_long_it_waits() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        await publish_with(publisher, 5_000, 0, 90_000, 5_000)
        node.clock.wall_offset_ms = 6_000

        subscriber.session.add_permits(10)

        assert await subscriber.receive(2) == [b"0", b"90000"]
        assert (await subscription_of(node)).expiry.expired_messages == 2


async def test_the_shorter_of_both_times_to_live_counts() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        await publish_with(publisher, 90_000, 5_000, 70_000)
        node.clock.wall_offset_ms = 6_000
        subscriber.session.add_permits(10)
        assert await subscriber.receive(2) == [b"90000", b"70000"]
        subscriber.session.redeliver([position_of(subscriber.deliveries[0])])
        await subscriber.receive(4)
        node.clock.wall_offset_ms = 61_000

        subscriber.session.redeliver([position_of(subscriber.deliveries[0])])

        subscription = await subscription_of(node)
        await until(lambda: subscription.backlog_messages == 0)
        assert subscription.expiry.expired_messages == 3
        assert len(subscriber.payloads) == 4


async def test_what_is_at_a_consumer_does_not_expire_under_it() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        subscriber = await Subscriber.open(node, permits=2)
        publisher = await Publisher.open(node)
        await publish_at(node, publisher, 0, b"1")
        await publish_at(node, publisher, 0, b"2")
        await publish_at(node, publisher, 0, b"3")
        await subscriber.receive(2)
        node.clock.wall_offset_ms = 61_000

        await maintained(node)

        subscription = await subscription_of(node)
        assert subscription.backlog_messages == 2
        assert subscription.expiry.expired_messages == 1
        assert await subscriber.acknowledge(*map(position_of, subscriber.deliveries)) is None
        assert subscription.backlog_messages == 0


async def test_messages_expire_without_any_consumer() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        (await Subscriber.open(node, permits=0)).session.close()
        publisher = await Publisher.open(node)
        for second in range(0, 100, 10):
            await publish_at(node, publisher, second, b"%d" % second)
        node.clock.wall_offset_ms = 105_000

        await maintained(node)

        subscription = await subscription_of(node)
        assert subscription.backlog_messages == 5  # of seconds 50 to 90
        assert subscription.durable_floor == 5
        assert subscription.expiry.expired_messages == 5


async def test_messages_with_times_of_their_own_expire_without_any_consumer() -> None:
    async with world() as made:
        node = await made.broker()
        (await Subscriber.open(node, permits=0)).session.close()
        publisher = await Publisher.open(node)
        await publish_with(publisher, 1_000, 2_000)
        await publish_with(publisher, 3_000)
        await publish_with(publisher, 500, 0)
        await publish_with(publisher, 100)
        node.clock.wall_offset_ms = 4_000

        await maintained(node)

        subscription = await subscription_of(node)
        assert subscription.expiry.expired_messages == 4  # behind one that lives nobody looks
        assert subscription.backlog_messages == 2
        subscriber = await Subscriber.open(node)
        await until(lambda: subscription.expiry.expired_messages == 5)
        assert await subscriber.receive(1) == [b"0"]


async def test_a_backlog_that_expires_later_is_not_read_again_before() -> None:
    async with world() as made:
        node = await made.broker()
        (await Subscriber.open(node, permits=0)).session.close()
        publisher = await Publisher.open(node)
        await publish_with(publisher, 60_000)
        await maintained(node)
        topic, reads = await node.topic(), 0
        read = topic.log.read

        async def counted(*arguments):  # type: ignore[no-untyped-def]
            nonlocal reads
            reads += 1
            return await read(*arguments)

        topic.log.read = counted  # type: ignore[method-assign]
        node.clock.wall_offset_ms = 59_000
        await maintained(node)
        assert reads == 0

        node.clock.wall_offset_ms = 61_000
        await maintained(node)

        assert reads > 0
        assert (await subscription_of(node)).backlog_messages == 0


async def test_a_returned_message_expires_although_nobody_is_left() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node)
        publisher = await Publisher.open(node)
        await publish_with(publisher, 5_000)
        await publish_with(publisher, 0)
        await subscriber.receive(2)
        await maintained(node)
        node.clock.wall_offset_ms = 6_000
        await maintained(node)
        assert (await subscription_of(node)).backlog_messages == 2

        subscriber.session.close()
        await maintained(node)

        assert (await subscription_of(node)).backlog_messages == 1


async def test_readers_get_what_is_stored_however_old() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        await publish_at(node, await Publisher.open(node), 0, b"old")
        node.clock.wall_offset_ms = 120_000

        reader = await Subscriber.open(node, "", initial_position=EARLIEST)

        assert await reader.receive(1) == [b"old"]


async def test_a_clock_that_goes_back_lets_messages_live_longer() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        (await Subscriber.open(node, permits=0)).session.close()
        publisher = await Publisher.open(node)
        await publish_at(node, publisher, 3600, b"x")
        await publish_at(node, publisher, 0, b"after the clock went back")
        node.clock.wall_offset_ms = 120_000

        await maintained(node)
        assert (await subscription_of(node)).backlog_messages == 2

        node.clock.wall_offset_ms = (3600 + 61) * 1000
        await maintained(node)
        assert (await subscription_of(node)).backlog_messages == 0


async def test_a_new_time_to_live_concerns_what_is_stored_already() -> None:
    async with world() as made:
        node = await made.broker()
        (await Subscriber.open(node, permits=0)).session.close()
        await publish_at(node, await Publisher.open(node), 0, b"x")
        node.clock.wall_offset_ms = 61_000
        await maintained(node)
        topic = await node.topic()
        assert (await subscription_of(node)).backlog_messages == 1

        topic.follow(MINUTE, topic.log.log.policy)
        await maintained(node)

        assert (await subscription_of(node)).backlog_messages == 0


async def test_thousands_of_expired_entries_make_no_deep_recursion() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        subscriber = await Subscriber.open(node, permits=100_000, shared=True)
        publisher = await Publisher.open(node, "p")
        for number in range(3_000):
            publisher.session.publish(publisher.batch(b"%d" % number))
        await subscriber.receive(3_000)
        node.clock.wall_offset_ms = 61_000
        subscription = await subscription_of(node)

        subscriber.session.redeliver([position_of(one) for one in subscriber.deliveries])

        await until(lambda: subscription.backlog_messages == 0)
        assert subscription.expiry.expired_messages == 3_000


@pytest.mark.parametrize("kind", [SubscriptionKind.SHARED, SubscriptionKind.KEY_SHARED])
async def test_others_get_their_turn_while_a_large_backlog_expires(kind: SubscriptionKind) -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        subscriber = await Subscriber.open(node, permits=0, kind=kind)
        publisher = await Publisher.open(node, "p")
        for number in range(6_000):
            publisher.session.publish(publisher.batch(b"%d" % number))
        await until(lambda: len(publisher.receipts) == 6_000)
        node.clock.wall_offset_ms = 61_000
        expiry = (await subscription_of(node)).expiry
        subscriber.session.add_permits(10)

        most = before = 0
        while expiry.expired_messages < 6_000:
            await asyncio.sleep(0)
            most = max(most, expiry.expired_messages - before)
            before = expiry.expired_messages

        assert most <= 1_500


# --- to the dead-letter topic


class Letters:
    """A dead-letter port that keeps what it is given until told."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.given: list[tuple[Delivery, int, int, str]] = []
        self.waiting: list[tuple[object, int, object]] = []

    def give(self, subscription, entry, mask, attempts, reason, done):  # type: ignore[no-untyped-def]
        self.given.append((entry, mask, attempts, reason))
        self.waiting.append((entry, mask, done))

    def deliver_all(self) -> None:
        waiting, self.waiting = self.waiting, []
        for entry, mask, done in waiting:
            self.subscription.passed_over(entry, mask)  # type: ignore[arg-type]
            done(None)  # type: ignore[operator]

    @property
    def payloads(self) -> list[bytes]:
        found = []
        for entry, mask, _, _ in self.given:
            view = EntryView(parse_prefix(entry.body)[1])  # type: ignore[attr-defined]
            found += [view.payload(index) for index in range(view.count) if mask >> index & 1]
        return found


LETTERED = replace(MINUTE, dead_letter_expired=True)


async def with_letters(node: Node, policies: TopicPolicies = LETTERED) -> Letters:
    topic = await node.topic()
    topic.follow(policies, topic.log.log.policy)
    letters = Letters(topic.state.subscriptions["s"])
    topic.dead_letters.give = letters.give  # type: ignore[method-assign]
    return letters


async def test_expired_messages_go_to_the_dead_letter_topic_and_count_once_they_are_there() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=1)
        publisher = await Publisher.open(node)
        await publish_at(node, publisher, 0, b"1")
        await publish_at(node, publisher, 0, b"2", b"3")
        await subscriber.receive(1)
        letters = await with_letters(node)
        node.clock.wall_offset_ms = 61_000
        subscriber.session.redeliver([position_of(subscriber.deliveries[0])])
        subscriber.session.add_permits(10)

        await until(lambda: len(letters.given) == 2)
        subscription = await subscription_of(node)
        assert letters.payloads == [b"1", b"2", b"3"]
        assert [one[2:] for one in letters.given] == [(1, "expired"), (0, "expired")]
        assert subscription.backlog_messages == 3
        assert subscription.expiry.expired_messages == 0
        letters.deliver_all()

        assert subscription.backlog_messages == 0
        assert subscription.expiry.expired_messages == 3
        assert subscription.expiry.given_messages == 0


async def test_a_message_on_its_way_to_the_dead_letter_topic_is_not_given_twice() -> None:
    async with world() as made:
        node = await made.broker()
        (await Subscriber.open(node, permits=0)).session.close()
        await publish_at(node, await Publisher.open(node), 0, b"1", b"2")
        letters = await with_letters(node)
        node.clock.wall_offset_ms = 61_000
        for _ in range(3):
            await maintained(node)

        await Subscriber.open(node)
        await settle()

        assert letters.payloads == [b"1", b"2"]


async def test_a_seek_judges_anew_what_was_given_up() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=0)
        await publish_at(node, await Publisher.open(node), 0, b"1")
        letters = await with_letters(node)
        node.clock.wall_offset_ms = 61_000
        subscriber.session.add_permits(10)
        await until(lambda: len(letters.given) == 1)
        node.clock.wall_offset_ms = 0

        await subscriber.session.seek(initial_position=EARLIEST)
        assert await subscriber.receive(1) == [b"1"]
        letters.waiting[0][2](None)  # type: ignore[operator]  # of before the seek

        assert (await subscription_of(node)).backlog_messages == 1


async def test_the_dead_letter_topic_holds_dispatch_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.expiry.MAX_GIVEN_ENTRIES", 5)
    async with world() as made:
        node = await made.broker(limits=SMALL_TURNS)
        node.broker.cache._limit_bytes = 0
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        for number in range(30):
            await publish_at(node, publisher, 0, b"%d" % number)
        await publish_at(node, publisher, 30, b"young")
        letters = await with_letters(node)
        node.clock.wall_offset_ms = 61_000
        subscriber.session.add_permits(100)
        await until(lambda: len(letters.given) >= 5)
        await settle()
        assert len(letters.given) < 12

        while len(letters.given) < 30:
            letters.deliver_all()
            await settle()
        letters.deliver_all()

        assert await subscriber.receive(1) == [b"young"]
        assert letters.payloads == [b"%d" % number for number in range(30)]


async def test_a_backlog_that_is_cleared_holds_dispatch_back_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broker.expiry.MAX_GIVEN_ENTRIES", 5)
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        for number in range(10):
            await publish_at(node, publisher, 0, b"%d" % number)
        await with_letters(node)  # which take none, as a topic that is not there
        node.clock.wall_offset_ms = 61_000
        subscriber.session.add_permits(100)
        subscription = await subscription_of(node)
        await until(lambda: subscription.expiry.full)

        await clear_backlog((await node.topic()).log, subscription)
        await publish_at(node, publisher, 61, b"new")

        assert await subscriber.receive(1) == [b"new"]


# --- by hand


async def test_skipping_gives_up_exactly_so_many_unacknowledged_messages() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, shared=True)
        publisher = await Publisher.open(node)
        for number in range(10):
            await publisher.publish(b"%d" % number)
        await subscriber.receive(10)
        await subscriber.acknowledge(*map(position_of, subscriber.deliveries[1:4:2]))
        topic, subscription = await node.topic(), await subscription_of(node)

        assert await skip_messages(topic.log, subscription, 3) == 3  # 0, 2 and 4

        assert subscription.cursor.floor == 5
        assert await skip_messages(topic.log, subscription, 99) == 5
        assert subscription.durable_floor == 10
        with pytest.raises(InvalidArgument):
            await skip_messages(topic.log, subscription, 0)


async def test_clearing_a_backlog_leaves_what_comes_after() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=0)
        publisher = await Publisher.open(node)
        await publisher.publish(b"1", b"2")

        assert await clear_backlog((await node.topic()).log, await subscription_of(node)) == 2

        subscriber.session.add_permits(10)
        await publisher.publish(b"3")
        assert await subscriber.receive(1) == [b"3"]


async def test_expiring_by_hand_leaves_what_is_younger_and_what_is_at_consumers() -> None:
    async with world() as made:
        node = await made.broker()
        subscriber = await Subscriber.open(node, permits=1)
        publisher = await Publisher.open(node)
        for second in range(0, 50, 10):
            await publish_at(node, publisher, second, b"%d" % second)
        await subscriber.receive(1)
        node.clock.wall_offset_ms = 45_000
        subscription = await subscription_of(node)

        assert await expire_messages(subscription, 20_000) == 2  # 10 and 20

        assert subscription.backlog_messages == 3
        with pytest.raises(InvalidArgument):
            await expire_messages(subscription, -1)


async def test_what_is_at_several_consumers_is_left_out_of_a_range() -> None:
    async with world() as made:
        node = await made.broker(policies=MINUTE)
        one = await Subscriber.open(node, permits=3, shared=True)
        publisher = await Publisher.open(node)
        await publish_at(node, publisher, 0, b"1", b"2", b"3")
        await publish_at(node, publisher, 0, b"4", b"5")
        await one.receive(3)
        first = one.deliveries[0]
        await one.acknowledge(position_of(first, 1))
        one.session.redeliver([position_of(first, 0)])
        await asyncio.sleep(0)
        node.clock.wall_offset_ms = 61_000

        await maintained(node)

        subscription = await subscription_of(node)
        assert subscription.cursor.mask(0, 3) == 0b011
        assert subscription.backlog_messages == 1
