"""Keys are at one consumer at a time and in order, whoever comes, goes, fails or dawdles."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from broker.conversation import Delivery, HoldFailedKeys, InitialPosition, MessagePosition
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from broker.subscription import Subscription
from broker.subscription_stats import Block
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import InvalidArgument
from tests.broker.world import Node, Publisher, Subscriber, positions_of, settle, until, world

EARLIEST = InitialPosition.EARLIEST
KEY_SHARED = SubscriptionKind.KEY_SHARED


async def subscription_of(node: Node) -> Subscription:
    return (await node.topic()).state.subscriptions["s"]


async def publish(publisher: Publisher, keys: list[str | None], **columns: object) -> None:
    """One batch; each payload tells its key and its number among all."""
    payloads = [
        f"{key}/{publisher.next_sequence_id + n}".encode() for n, key in enumerate(keys)
    ]
    expected = len(publisher.receipts) + 1
    publisher.session.publish(publisher.batch(*payloads, partition_keys=keys, **columns))
    await until(lambda: len(publisher.receipts) >= expected)
    assert publisher.receipts[-1].error is None


def keys_of(consumer: Subscriber) -> set[str]:
    return {payload.decode().split("/")[0] for payload in consumer.payloads}


async def test_each_key_goes_to_one_consumer_and_consumers_share_the_keys() -> None:
    async with world() as made:
        node = await made.broker()
        consumers = [await Subscriber.open(node, kind=KEY_SHARED) for _ in range(4)]
        publisher = await Publisher.open(node)
        keys = [f"k{number}" for number in range(200)]

        await publish(publisher, keys)
        await publish(publisher, list(reversed(keys)))
        await until(lambda: sum(len(one.payloads) for one in consumers) == 400)

        owned = [keys_of(one) for one in consumers]
        assert sum(map(len, owned)) == 200
        assert all(30 < len(keys) < 75 for keys in owned)


async def test_messages_without_a_key_go_to_whoever_has_room() -> None:
    async with world() as made:
        node = await made.broker()
        full = await Subscriber.open(node, kind=KEY_SHARED, permits=1)
        free = await Subscriber.open(node, kind=KEY_SHARED, permits=100)
        publisher = await Publisher.open(node)

        await publish(publisher, [None] * 10)
        await publisher.publish(b"x", b"y")
        await until(lambda: len(free.payloads) == 11)

        assert len(full.payloads) == 1


async def test_the_ordering_key_counts_before_the_partition_key() -> None:
    async with world() as made:
        node = await made.broker()
        consumers = [await Subscriber.open(node, kind=KEY_SHARED) for _ in range(4)]
        publisher = await Publisher.open(node)

        await publish(publisher, [f"k{n}" for n in range(50)], ordering_keys=["same"] * 50)
        await until(lambda: sum(len(one.payloads) for one in consumers) == 50)

        assert sorted(len(one.payloads) for one in consumers) == [0, 0, 0, 50]


async def test_others_pass_the_keys_of_a_consumer_without_permits_up_to_a_bound() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(look_ahead_messages=40))
        slow = await Subscriber.open(node, kind=KEY_SHARED, permits=0)
        quick = await Subscriber.open(node, kind=KEY_SHARED, permits=10_000)
        publisher = await Publisher.open(node)
        keys: list[str | None] = [f"k{number}" for number in range(20)]
        for _ in range(4):
            await publish(publisher, keys)
        await settle()
        subscription = await subscription_of(node)
        stats = subscription.snapshot_stats()
        mine = keys_of(quick)
        assert 4 < len(mine) < 16
        assert len(quick.payloads) == 4 * len(mine)
        assert stats.set_aside == 4 * (20 - len(mine))
        assert Block.NO_PERMITS in [one.reason for one in stats.blocked]

        for _ in range(20):
            await publish(publisher, keys)
        await settle()
        stats = subscription.snapshot_stats()
        assert 40 <= stats.set_aside < 60
        assert Block.LOOK_AHEAD_BOUND in [one.reason for one in stats.blocked]
        assert len(quick.payloads) < 24 * len(mine)

        slow.session.add_permits(10_000)
        await until(lambda: len(quick.payloads) + len(slow.payloads) == 24 * 20)
        for consumer in (slow, quick):
            check_order(consumer.payloads)


def check_order(payloads: list[bytes]) -> None:
    """Numbers grow within each key."""
    last: dict[str, int] = {}
    for payload in payloads:
        key, number = payload.decode().split("/")
        assert int(number) > last.get(key, -1), payload
        last[key] = int(number)


async def test_a_key_that_moves_is_drained_first() -> None:
    async with world() as made:
        node = await made.broker()
        old = await Subscriber.open(node, kind=KEY_SHARED, consumer_name="old")
        publisher = await Publisher.open(node)
        keys: list[str | None] = [f"k{number}" for number in range(40)]
        await publish(publisher, keys)
        await old.receive(40)

        new = await Subscriber.open(node, kind=KEY_SHARED)
        await publish(publisher, keys)
        await settle()
        subscription = await subscription_of(node)
        stats = subscription.snapshot_stats()
        moved = 80 - len(old.payloads)
        assert new.payloads == []
        assert stats.draining_keys == stats.set_aside == moved > 10
        texts = [one.text for one in stats.blocked if one.reason is Block.DRAINING_KEY]
        assert texts == [f"{moved} keys wait for what old has of them"]

        await old.acknowledge(*positions_of(old.deliveries[:1]))

        assert len(await new.receive(moved)) == moved
        assert not keys_of(new) & {
            payload.decode().split("/")[0] for payload in old.payloads[40:]}
        assert subscription.snapshot_stats().draining_keys == 0


async def test_what_a_leaving_consumer_had_comes_first_and_in_order() -> None:
    async with world() as made:
        node = await made.broker()
        leaving = await Subscriber.open(node, kind=KEY_SHARED)
        publisher = await Publisher.open(node)
        keys: list[str | None] = [f"k{number}" for number in range(10)]
        for _ in range(3):
            await publish(publisher, keys)
        await leaving.receive(30)
        staying = [await Subscriber.open(node, kind=KEY_SHARED) for _ in range(2)]
        await publish(publisher, keys)

        leaving.session.close()

        await until(lambda: sum(len(one.payloads) for one in staying) == 40)
        for one in staying:
            check_order(one.payloads)


async def test_a_key_does_not_wait_for_ever_for_an_owner_that_takes_nothing() -> None:
    async with world() as made:
        node = await made.broker(limits=BrokerLimits(idle_owner_s=0.02))
        stuck = await Subscriber.open(node, kind=KEY_SHARED, permits=0)
        quick = await Subscriber.open(node, kind=KEY_SHARED, permits=100)
        publisher = await Publisher.open(node)
        await publish(publisher, [f"k{number}" for number in range(20)] * 2)
        await settle()
        assert len(quick.payloads) < 40

        for _ in range(40):
            await quick.acknowledge(*positions_of(quick.deliveries))
            if len(quick.payloads) == 40:
                break
            seen = len(quick.payloads)
            await until(lambda: len(quick.payloads) > seen)  # noqa: B023

        assert len(quick.payloads) == 40
        check_order(quick.payloads)
        assert stuck.payloads == []


async def test_cumulative_acknowledgement_is_refused() -> None:
    async with world() as made:
        node = await made.broker()
        one = await Subscriber.open(node, kind=KEY_SHARED)
        publisher = await Publisher.open(node)
        await publish(publisher, ["a"])
        await one.receive(1)

        error = await one.acknowledge(cumulative=positions_of(one.deliveries)[0])

        assert isinstance(error, InvalidArgument)
        assert "key_shared" in str(error)


async def test_a_seek_begins_anew_at_the_right_consumers() -> None:
    async with world() as made:
        node = await made.broker()
        consumers = [await Subscriber.open(node, kind=KEY_SHARED) for _ in range(2)]
        publisher = await Publisher.open(node)
        keys: list[str | None] = [f"k{number}" for number in range(20)]
        await publish(publisher, keys)
        await until(lambda: sum(len(one.payloads) for one in consumers) == 20)
        consumers[0].session.negative(positions_of(consumers[0].deliveries), 3_600_000)
        before = [keys_of(one) for one in consumers]

        await consumers[1].session.seek(initial_position=EARLIEST)

        await until(lambda: sum(len(one.payloads) for one in consumers) == 40)
        assert [keys_of(one) for one in consumers] == before
        assert (await subscription_of(node)).snapshot_stats().delayed == 0


class Watcher:
    """Consumers of one subscription, as the promises see them."""

    def __init__(self) -> None:
        self.members: dict[str, Subscriber] = {}
        self.holders: dict[str, dict[int, str]] = defaultdict(dict)
        """By key: who has which message, by its number."""
        self.settled: set[int] = set()
        self.seen: dict[str, int] = {}
        self.taken: dict[str, int] = defaultdict(int)
        self.failed: dict[str, set[int]] = defaultdict(set)

    def look(self) -> None:
        """At what has come since the last look."""
        for name, member in self.members.items():
            for delivery in member.deliveries[self.taken[name]:]:
                for key, number in self.messages(delivery):
                    self.delivered(name, key, number)
            self.taken[name] = len(member.deliveries)
            assert member.session.permits >= 0

    @staticmethod
    def messages(delivery: Delivery) -> list[tuple[str, int]]:
        view = EntryView(parse_prefix(delivery.entry)[1])
        skip = int.from_bytes(delivery.skip, "little")
        found = []
        for place in range(view.count):
            if not skip >> place & 1:
                key, number = view.payload(place).decode().split("/")
                found.append((key, int(number)))
        return found

    def delivered(self, name: str, key: str, number: int) -> None:
        assert number not in self.settled, f"{key}/{number} came again"
        others = set(self.holders[key].values()) - {name}
        assert not others, f"{key} is at {others} and {name}"
        assert number not in self.holders[key], f"{key}/{number} came twice"
        waits = [failed for failed in self.failed[key] if failed < number]
        assert not waits, f"{key}/{number} passed {waits}, which failed"
        self.holders[key][number] = name
        if number > self.seen.get(key, -1):
            self.seen[key] = number


@pytest.mark.parametrize("seed", range(6))
async def test_the_promises_hold_whatever_happens(seed: int) -> None:
    """Twelve keys, up to five consumers that come, go, fail, dawdle and acknowledge."""
    chance = random.Random(seed)
    limits = BrokerLimits(look_ahead_messages=60, idle_owner_s=0.005)
    async with world() as made:
        node = await made.broker(limits=limits)
        publisher = await Publisher.open(node)
        watcher = Watcher()
        published: dict[str, list[int]] = defaultdict(list)
        names = 0
        for _ in range(150):
            what = chance.random()
            if what < 0.15 and len(watcher.members) < 5:
                names += 1
                watcher.members[f"c{names}"] = await Subscriber.open(
                    node, kind=KEY_SHARED, consumer_name=f"c{names}",
                    permits=chance.randrange(20), initial_position=EARLIEST,
                    hold_failed_keys=HoldFailedKeys.HOLD)
            elif what < 0.22 and watcher.members:
                leave(watcher, chance.choice(sorted(watcher.members)))
            elif what < 0.5:
                keys: list[str | None] = [
                    f"k{chance.randrange(12)}" for _ in range(chance.randrange(1, 12))]
                for n, key in enumerate(keys):
                    published[str(key)].append(publisher.next_sequence_id + n)
                await publish(publisher, keys)
            elif watcher.members:
                await act(chance, watcher, chance.choice(sorted(watcher.members)))
            await settle(chance.randrange(4) * 10)
            watcher.look()
        await drain(node, watcher, published)


def leave(watcher: Watcher, name: str) -> None:
    watcher.look()
    watcher.members.pop(name).session.close()
    for held in watcher.holders.values():
        for number in [number for number, holder in held.items() if holder == name]:
            del held[number]


async def act(chance: random.Random, watcher: Watcher, name: str) -> None:
    """Acknowledge, fail or ask for more."""
    member = watcher.members[name]
    watcher.look()
    held = [
        (key, number) for key, numbers in watcher.holders.items()
        for number, holder in numbers.items() if holder == name
    ]
    member.session.add_permits(chance.randrange(8))
    if not held:
        return
    chosen = chance.sample(held, chance.randrange(1, len(held) + 1))
    positions = {
        number: position for position in positions_of(member.deliveries)
        for number in [number_at(member, position)]
    }
    if chance.random() < 0.6:
        for key, number in chosen:
            del watcher.holders[key][number]
            watcher.settled.add(number)
            watcher.failed[key].discard(number)
        await member.acknowledge(*(positions[number] for _, number in chosen))
    else:
        counted = chance.random() < 0.7
        for key, number in chosen:
            del watcher.holders[key][number]
            if counted:
                watcher.failed[key].add(number)
        member.session.negative(
            [positions[number] for _, number in chosen], chance.choice((0, 0, 5)),
            counted=counted)


def number_at(member: Subscriber, position: MessagePosition) -> int:
    for delivery in member.deliveries:
        if (delivery.ledger_id, delivery.entry_id) == (position.ledger_id, position.entry_id):
            payloads = positions_of([delivery])
            if position in payloads:
                return Watcher.messages(delivery)[payloads.index(position)][1]
    raise AssertionError("not delivered")


async def drain(
    node: Node, watcher: Watcher, published: dict[str, list[int]]
) -> None:
    """Once everybody acknowledges, everything arrives."""
    if not watcher.members:
        watcher.members["last"] = await Subscriber.open(
            node, kind=KEY_SHARED, consumer_name="last", permits=0, initial_position=EARLIEST)
    total = sum(map(len, published.values()))
    subscription = await subscription_of(node)

    def all_of_it() -> bool:
        watcher.look()
        for name, member in watcher.members.items():
            member.session.add_permits(10)
            mine = [
                (key, number) for key, numbers in watcher.holders.items()
                for number, holder in numbers.items() if holder == name
            ]
            if mine:
                at = {number_at(member, one): one for one in positions_of(member.deliveries)}
                for key, number in mine:
                    del watcher.holders[key][number]
                    watcher.settled.add(number)
                    watcher.failed[key].discard(number)
                member.session.acknowledge(
                    [at[number] for _, number in mine], None, lambda _: None)
        return subscription.backlog_messages == 0

    await until(all_of_it)
    first = min((numbers[0] for numbers in published.values()), default=0)
    assert watcher.settled == set(range(first, first + total))
    stats = subscription.snapshot_stats()
    assert (stats.unacknowledged, stats.waiting, stats.set_aside, stats.held_keys) == (0, 0, 0, 0)
    assert subscription.dispatcher.order is not None
    assert len(subscription.dispatcher.order) == 0
