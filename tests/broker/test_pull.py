"""Pulling at the broker: exact amounts, leases, and nothing lost with a call that is given up."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace

import pytest

from broker.conversation import Delivery, InitialPosition, MessagePosition, OpenConsumer
from broker.pull_session import PullRequest
from broker.pull_sessions import Failed, PullLimits, PullSessions, Settlement
from broker.pull_trim import meant_mask
from broker.selector import parse_filter
from broker.state_records import SubscriptionKind
from magnetar.entry import Codec, EntryView, encode_batch, parse_prefix
from magnetar.errors import ConsumerBusy, InvalidArgument, NotOwner, SubscriptionNotFound
from tests.broker.test_dead_letters import dead_letters
from tests.broker.world import (
    TOPIC,
    Node,
    Publisher,
    Subscriber,
    position_of,
    settle,
    until,
    world,
)

SHARED = SubscriptionKind.SHARED
SOON_S = 0.02


@dataclass
class Puller:
    """Pulls from the subscription `s`, by calls to the broker's core."""

    node: Node
    name: str = "me"
    kind: SubscriptionKind = SHARED
    tags: str = "*"
    deliveries: list[Delivery] = field(default_factory=list)
    end_of_topic: bool = False
    max_deliveries: int = 0

    @property
    def opening(self) -> OpenConsumer:
        return OpenConsumer(
            TOPIC, "s", self.kind, InitialPosition.EARLIEST, consumer_name=self.name,
            filter=parse_filter(self.tags, ""), max_deliveries=self.max_deliveries)

    async def pulls(self) -> PullSessions:
        return (await self.node.broker.topic_here(TOPIC)).pulls

    async def pull(
        self, most: int = 10, wait_s: float = SOON_S, max_bytes: int = 0, lease_s: float = 30.0
    ) -> list[bytes]:
        pulls = await self.pulls()
        answer = await pulls.receive(
            self.opening, PullRequest(most, max_bytes, wait_s, lease_s))
        self.deliveries, self.end_of_topic = answer.deliveries, answer.end_of_topic
        return [payload for one in self.deliveries for payload in payloads(one)]

    @property
    def positions(self) -> list[MessagePosition]:
        """Of what came with the last pull."""
        return [position_of(one, mask=meant_mask(one)) for one in self.deliveries]

    @property
    def counts(self) -> list[int]:
        return [one.redelivery_count for one in self.deliveries]

    async def settle(self, **told: object) -> None:
        await (await self.pulls()).settle(
            Settlement("s", self.name, **told))  # type: ignore[arg-type]

    async def acknowledge(self) -> None:
        await self.settle(individual=self.positions)

    async def time_passes(self, seconds: float) -> None:
        self.node.clock.ahead_s += seconds
        (await self.pulls()).look_at_time()
        (await self.node.topic()).wake_dispatch()


def payloads(delivery: Delivery) -> list[bytes]:
    view = EntryView(parse_prefix(delivery.entry)[1])
    skip = int.from_bytes(delivery.skip, "little")
    return [view.payload(index) for index in range(view.count) if not skip >> index & 1]


def numbered(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


async def filled(node: Node, messages: int, batch: int = 1) -> Publisher:
    publisher = await Publisher.open(node, "p")
    for first in range(0, messages, batch):
        await publisher.publish(*numbered(*range(first, min(first + batch, messages))))
    return publisher


async def backlog(node: Node) -> int:
    return (await node.topic()).state.subscriptions["s"].backlog_messages


async def test_a_pull_brings_what_is_there_and_never_more_than_was_asked_for() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 25, batch=10)
        puller = Puller(node)

        assert await puller.pull(4) == numbered(0, 1, 2, 3)
        await puller.acknowledge()
        assert await puller.pull(9) == numbered(*range(4, 13))
        await puller.acknowledge()
        assert await puller.pull(100) == numbered(*range(13, 25))
        await puller.acknowledge()
        assert await puller.pull(1) == []

        assert await backlog(node) == 0
        assert puller.counts == []


async def test_nothing_is_sent_to_a_puller_that_does_not_ask() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 4)
        puller, other = Puller(node), Puller(node, "other")

        assert await puller.pull(1) == numbered(0)
        await settle()

        assert await other.pull(10) == numbered(1, 2, 3)
        assert other.counts == [0, 0, 0]


async def test_a_pull_waits_for_the_first_message_and_not_longer() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await filled(node, 0)
        puller = Puller(node)
        waiting = asyncio.ensure_future(puller.pull(10, wait_s=30))
        await settle()
        assert not waiting.done()

        await publisher.publish(b"a", b"b")
        assert await waiting == [b"a", b"b"]

        assert await puller.pull(10, wait_s=0) == []


async def test_a_pull_that_does_not_wait_still_gets_what_must_be_read_from_the_bookies() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 3)
        node.broker.cache._entries.clear()

        assert await Puller(node).pull(10, wait_s=0) == numbered(0, 1, 2)


async def test_a_pull_is_bounded_in_bytes_and_brings_one_message_in_any_case() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        large = [b"%d" % number * 1_000 for number in range(8)]
        await publisher.publish(*large[:6])
        await publisher.publish(*large[6:])
        puller = Puller(node)

        assert await puller.pull(10, max_bytes=3_500) == large[:3]
        assert await puller.pull(10, max_bytes=1) == large[3:4]
        assert await puller.pull(10, max_bytes=2_500) == large[4:6]
        assert await puller.pull(10, max_bytes=1 << 20) == large[6:]
        assert puller.counts == [0]


async def test_the_bound_in_bytes_holds_for_compressed_messages_and_the_rest_of_a_batch() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        large = [random.Random(number).randbytes(500).hex().encode() for number in range(8)]
        publisher.session.publish(encode_batch(
            "p", 0, large, publish_time_ms=1, codec=Codec.ZSTD))
        await until(lambda: len(publisher.receipts) == 1)
        publisher.next_sequence_id = 8
        await publisher.publish(*large)
        puller = Puller(node)

        found: list[bytes] = []
        answers: list[int] = []
        while some := await puller.pull(10, max_bytes=2_500):
            found += some
            answers.append(sum(len(one.entry) for one in puller.deliveries))

        assert found == [*large, *large]
        assert max(answers) <= 2_500


async def test_what_is_not_settled_in_time_is_delivered_again_and_counted() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 4, batch=2)
        puller = Puller(node)
        assert await puller.pull(3, lease_s=10) == numbered(0, 1, 2)
        await puller.settle(individual=[replace(puller.positions[0], batch_mask=0b01)])

        await puller.time_passes(9)
        assert await puller.pull(10, lease_s=100) == numbered(3)

        await puller.time_passes(2)
        assert await puller.pull(10, lease_s=100) == numbered(1, 2)
        assert puller.counts == [1, 1]
        assert await backlog(node) == 3


async def test_leases_end_by_themselves() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 1)
        puller = Puller(node)
        assert await puller.pull(1, lease_s=0.01) == numbered(0)

        assert await puller.pull(1, wait_s=5, lease_s=10) == numbered(0)
        assert puller.counts == [1]


async def test_a_lease_is_extended_for_as_long_as_it_lasts() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node)
        await puller.pull(2, lease_s=10)
        first, second = puller.positions

        await puller.time_passes(8)
        await puller.settle(extend=[first], lease_s=10.0)
        await puller.time_passes(8)
        assert await puller.pull(2) == numbered(1)

        with pytest.raises(InvalidArgument, match="the lease is over"):
            await puller.settle(extend=[replace(second, entry_id=99)], lease_s=10.0)
        await puller.time_passes(3)
        with pytest.raises(InvalidArgument, match="the lease is over"):
            await puller.settle(extend=[first], lease_s=10.0)


async def test_leases_of_before_a_seek_end_none_of_after_it() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2, batch=2)
        puller = Puller(node)
        assert await puller.pull(2, lease_s=10) == numbered(0, 1)

        subscription = (await node.topic()).state.subscriptions["s"]
        await subscription.seek(None, InitialPosition.EARLIEST, 0)
        assert await puller.pull(2, lease_s=100) == numbered(0, 1)
        await puller.time_passes(11)
        assert await puller.pull(2) == []

        await puller.time_passes(100)
        assert await puller.pull(2) == numbered(0, 1)
        assert puller.counts == [1]


async def test_what_is_given_back_comes_again_counted_or_not() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node)
        await puller.pull(2)
        first, second = puller.positions

        await puller.settle(negative=[Failed([first])], unused=[second])

        assert await puller.pull(2) == numbered(0, 1)
        assert puller.counts == [1, 0]


async def test_what_failed_comes_again_after_its_delay() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node)
        await puller.pull(2)
        first, second = puller.positions

        await puller.settle(negative=[Failed([first], 5_000), Failed([second], 1_000)])
        assert await puller.pull(2) == []
        await puller.time_passes(2)
        assert await puller.pull(2) == numbered(1)
        await puller.time_passes(4)

        assert await puller.pull(2) == numbered(0)
        assert puller.counts == [1]


async def test_a_call_that_is_given_up_loses_nothing_and_counts_nothing() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await filled(node, 0)
        puller, other = Puller(node), Puller(node, "other")
        waiting = asyncio.ensure_future(puller.pull(10, wait_s=30))
        await settle()

        receipt = publisher.session.publish(publisher.batch(b"a"))
        await until(lambda: bool(publisher.receipts))
        waiting.cancel()  # as the message arrives, or just before
        await asyncio.gather(waiting, return_exceptions=True)

        assert receipt is None
        assert await other.pull(10, wait_s=5) == [b"a"]
        assert other.counts == [0]


async def test_an_answer_that_reached_nobody_is_given_back_uncounted() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node)
        pulls = await puller.pulls()
        answer = await pulls.receive(puller.opening, PullRequest(10, 0, 1.0, 30.0))

        answer.unanswered()

        assert await Puller(node, "other").pull(10) == numbered(0, 1)
        assert pulls.leased_entries == 2


async def test_calls_of_one_name_take_turns() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await filled(node, 0)
        puller = Puller(node)
        first = asyncio.ensure_future(puller.pull(1, wait_s=30))
        await settle()
        second = asyncio.ensure_future(Puller(node).pull(10, wait_s=30))
        impatient = asyncio.ensure_future(Puller(node).pull(10, wait_s=0.01))

        assert await impatient == []
        await publisher.publish(b"a", b"b", b"c")

        assert (await first, await second) == ([b"a"], [b"b", b"c"])


async def test_settling_works_after_the_session_and_on_the_next_owner() -> None:
    async with world() as made:
        node = await made.broker("b1")
        await filled(node, 3)
        puller = Puller(node)
        await puller.pull(3)
        first, second, third = puller.positions
        pulls = await puller.pulls()
        await puller.settle(individual=[first], close=True)
        assert len(pulls) == 0
        await puller.settle(individual=[second])

        await made.kill(node)
        puller.node = await made.broker("b2")
        await puller.settle(individual=[third])

        assert await backlog(puller.node) == 0
        assert await puller.pull(3) == []


async def test_everything_up_to_a_message_is_settled_at_once() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 6, batch=2)
        puller = Puller(node, kind=SubscriptionKind.EXCLUSIVE)
        await puller.pull(5, lease_s=10)

        await puller.settle(cumulative=position_of(puller.deliveries[1], 0))
        assert await backlog(node) == 3

        await puller.time_passes(11)
        assert await puller.pull(10) == numbered(3, 4, 5)
        assert puller.counts == [1, 1, 0]


async def test_an_exclusive_puller_keeps_others_out_while_something_is_out() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node, kind=SubscriptionKind.EXCLUSIVE)
        other = Puller(node, "other", kind=SubscriptionKind.EXCLUSIVE)
        await puller.pull(1)

        with pytest.raises(ConsumerBusy):
            await other.pull(1)
        await puller.time_passes(15)
        with pytest.raises(ConsumerBusy):
            await other.pull(1)

        await puller.acknowledge()
        await puller.time_passes(11)
        assert await other.pull(1) == numbered(1)


async def test_a_puller_that_leaves_gives_back_what_it_did_not_use() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node, kind=SubscriptionKind.EXCLUSIVE)
        other = Puller(node, "other", kind=SubscriptionKind.EXCLUSIVE)
        await puller.pull(2)

        await puller.settle(close=True)

        assert await other.pull(2) == numbered(0, 1)
        assert other.counts == [0, 0]


async def test_pullers_share_a_subscription_with_pushed_consumers() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 6)
        puller = Puller(node)
        assert await puller.pull(2) == numbered(0, 1)

        consumer = await Subscriber.open(
            node, shared=True, initial_position=InitialPosition.EARLIEST)
        assert await consumer.receive(4) == numbered(2, 3, 4, 5)

        await puller.settle(negative=[Failed(puller.positions)])
        assert (await consumer.receive(6))[4:] == numbered(0, 1)


async def test_a_puller_with_a_filter_gets_only_what_it_wants() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        publisher.session.publish(publisher.batch(
            b"0", b"1", b"2", b"3", tags=["a", "b", "a", "a"]))
        await until(lambda: bool(publisher.receipts))
        puller = Puller(node, tags="a")

        assert await puller.pull(2) == numbered(0, 2)
        await puller.acknowledge()
        assert await puller.pull(2) == numbered(3)
        await puller.acknowledge()
        assert await backlog(node) == 0

        with pytest.raises(ConsumerBusy, match="another type or filter"):
            await Puller(node, tags="b").pull(1)


async def test_the_end_of_the_topic_is_told_to_whoever_waits() -> None:
    async with world() as made:
        node = await made.broker()
        topic = await node.topic()
        puller = Puller(node)
        waiting = asyncio.ensure_future(puller.pull(1, wait_s=30))
        await until(lambda: len(topic.pulls) == 1)

        topic.abandon()

        with pytest.raises(NotOwner):
            await waiting


async def test_the_last_message_of_a_terminated_topic_is_told() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node)
        await (await node.topic()).terminate()

        assert await puller.pull(2) == numbered(0, 1)
        positions = puller.positions
        assert await puller.pull(2) == [] and not puller.end_of_topic
        await puller.settle(individual=positions)

        assert await puller.pull(2, wait_s=60) == []
        assert puller.end_of_topic


async def test_each_member_of_a_broadcast_pulls_and_settles_for_itself() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 3)
        one = Puller(node, "one", SubscriptionKind.BROADCAST)
        two = Puller(node, "two", SubscriptionKind.BROADCAST)

        assert await one.pull(3) == numbered(0, 1, 2)
        await one.settle(individual=one.positions, close=True)
        assert await two.pull(2) == numbered(0, 1)
        await two.settle(cumulative=position_of(two.deliveries[0]))

        topic = await node.topic()
        assert [member.backlog_messages for member in topic.members_of("s")] == [0, 2]


async def test_keys_are_pulled_in_order_by_pullers_that_share_them() -> None:
    async with world() as made:
        node = await made.broker()
        publisher = await Publisher.open(node, "p")
        publisher.session.publish(publisher.batch(
            *numbered(*range(12)), partition_keys=[f"k{number % 3}" for number in range(12)]))
        await until(lambda: bool(publisher.receipts))
        pullers = [Puller(node, name, SubscriptionKind.KEY_SHARED) for name in ("a", "b")]

        order: list[int] = []
        while len(order) < 12:
            for puller in pullers:
                order += map(int, await puller.pull(2, wait_s=0))
                await puller.acknowledge()

        for key in range(3):
            mine = [number for number in order if number % 3 == key]
            assert mine == list(range(key, 12, 3))


async def test_a_standby_puller_gets_nothing_until_it_is_active() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 3)
        active = Puller(node, "a", SubscriptionKind.FAILOVER)
        standby = Puller(node, "b", SubscriptionKind.FAILOVER)
        assert await active.pull(1) == numbered(0)

        assert await standby.pull(3) == []
        await active.settle(individual=active.positions, close=True)

        assert await standby.pull(3) == numbered(1, 2)


async def test_what_leases_end_for_too_often_becomes_a_dead_letter() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 2)
        puller = Puller(node, max_deliveries=2)
        for _ in range(2):
            assert await puller.pull(1, wait_s=5) == numbered(0)
            await puller.time_passes(31)
        await until(lambda: bool(made.forwarder.batches))

        assert await puller.pull(2) == numbered(1)
        [(view, index)] = await dead_letters(node)
        properties = view.properties(index)
        assert properties["dead_letter.attempts"] == "2"
        assert properties["dead_letter.reason"] == "not settled within its lease"


async def test_bounds_and_bad_requests_are_told() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 1)
        puller = Puller(node)
        pulls = await puller.pulls()
        pulls.limits = PullLimits(sessions=1, calls=1)

        with pytest.raises(SubscriptionNotFound):
            await puller.settle(individual=[MessagePosition(1, 0)])
        with pytest.raises(InvalidArgument, match="one message at least"):
            await puller.pull(0)
        with pytest.raises(InvalidArgument, match="a lease is"):
            await puller.pull(1, lease_s=1e6)
        with pytest.raises(InvalidArgument, match="consumer name"):
            await Puller(node, "").pull(1)

        await puller.pull(1)
        with pytest.raises(ConsumerBusy, match="all the pullers"):
            await Puller(node, "other").pull(1)
        waiting = asyncio.ensure_future(puller.pull(1, wait_s=5))
        await settle()
        with pytest.raises(ConsumerBusy, match="all the waiting pulls"):
            await puller.pull(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        with pytest.raises(InvalidArgument, match="no message of this topic"):
            await puller.settle(individual=[MessagePosition(12_345, 0)])


async def test_what_was_settled_leaves_no_trace_among_the_deadlines() -> None:
    async with world() as made:
        node = await made.broker()
        await filled(node, 1)
        puller = Puller(node)
        pulls = await puller.pulls()
        pulls._most_deadlines = 10
        for _ in range(50):
            await puller.pull(1, lease_s=3_600)
            await puller.settle(unused=puller.positions)

        assert len(pulls._deadlines) <= 40
