"""Consumers fail messages, come and go, and brokers do: what a model of it all allows happens."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from broker.conversation import Delivery, HoldFailedKeys, MessagePosition
from broker.settings import BrokerLimits
from broker.state_records import SubscriptionKind
from magnetar.entry import EntryView, indexes_of, parse_prefix
from magnetar.errors import ConnectionFailed
from tenants.policies import TopicPolicies
from tests.broker.world import Node, Publisher, Subscriber, World, settle, until, world

KINDS = [
    SubscriptionKind.EXCLUSIVE, SubscriptionKind.SHARED, SubscriptionKind.KEY_SHARED,
    SubscriptionKind.FAILOVER,
]
DELAYS_S = (0, 0, 30, 600)
SLACK_S = 0.5


def messages_of(delivery: Delivery) -> list[tuple[MessagePosition, bytes]]:
    """Those that were meant, and where they are."""
    view = EntryView(parse_prefix(delivery.entry)[1])
    skip, picked = (
        int.from_bytes(one, "little") for one in (delivery.skip, delivery.picked))
    places = indexes_of(picked) if picked else range(view.count)
    return [
        (MessagePosition(delivery.ledger_id, delivery.entry_id, index), view.payload(at))
        for at, index in enumerate(places) if not skip >> at & 1
    ]


@dataclass
class Model:
    """What may still be delivered, by payload; payloads grow in the order of the log."""

    holds: bool
    keys: dict[bytes, str | None] = field(default_factory=dict)
    out: dict[bytes, tuple[Subscriber, MessagePosition]] = field(default_factory=dict)
    failed: set[bytes] = field(default_factory=set)
    due_s: dict[bytes, float] = field(default_factory=dict)
    done: set[bytes] = field(default_factory=set)
    dead: set[bytes] = field(default_factory=set)

    @property
    def left(self) -> set[bytes]:
        """What is neither acknowledged nor a dead letter."""
        return set(self.keys) - self.done - self.dead

    def delivered(
        self, consumer: Subscriber, position: MessagePosition, payload: bytes, now_s: float
    ) -> None:
        assert payload in self.left, "it was acknowledged, or is a dead letter"
        assert payload not in self.out, "somebody has it"
        assert self.due_s.pop(payload, now_s) <= now_s + SLACK_S, "it is not due"
        earlier = {one for one in self.failed if one < payload and one in self.left}
        assert not self.holds or self.keys[payload] is None or not any(
            self.keys[one] == self.keys[payload] for one in earlier
        ), "one of its key has failed"
        self.out[payload] = (consumer, position)

    def buried(self, payload: bytes) -> None:
        assert payload not in self.dead, "it is a dead letter already"
        self.dead.add(payload)

    def gone(self, consumer: Subscriber) -> None:
        """Nobody has any more what it had."""
        self.out = {one: held for one, held in self.out.items() if held[0] is not consumer}


class Scene:
    """A subscription over its owners, with what happens to it drawn from a seed."""

    def __init__(self, made: World, kind: SubscriptionKind, seed: int) -> None:
        self.made = made
        self.random = random.Random(f"{seed} {kind}")
        self.kind = kind
        self.model = Model(self.random.random() < 0.5)
        self.options = {
            "kind": kind, "max_deliveries": self.random.choice([0, 2, 3]),
            "hold_failed_keys": HoldFailedKeys.HOLD if self.model.holds else HoldFailedKeys.PASS,
        }
        self.policies = TopicPolicies(
            max_unacked_messages_per_subscription=self.random.choice([0, 6, 20]),
            max_unacked_messages_per_consumer=self.random.choice([0, 5]))
        self.now_s = self.owners = 0
        self.consumers: list[Subscriber] = []
        self.node: Node
        self.publisher: Publisher

    async def begin(self) -> None:
        """At a broker of its own."""
        self.owners += 1
        self.node = await self.made.broker(
            f"b{self.owners}", policies=self.policies, limits=BrokerLimits(idle_owner_s=1.0))
        self.pass_time(0)
        self.publisher = await Publisher.open(self.node)
        await self.join()

    def pass_time(self, seconds: int) -> None:
        self.now_s += seconds
        self.node.clock.ahead_s = self.now_s
        self.node.clock.wall_offset_ms = self.now_s * 1_000

    async def look(self) -> None:
        """Let dispatch do what it can, and hold what came against the model."""
        (await self.node.topic()).wake_dispatch()
        await settle(60)
        for _, batch in self.made.forwarder.batches:
            view = EntryView(batch)
            for index in range(view.count):
                self.model.buried(view.payload(index))
        self.made.forwarder.batches.clear()
        for consumer in self.consumers:
            for delivery in consumer.deliveries:
                for position, payload in messages_of(delivery):
                    self.model.delivered(consumer, position, payload, self.now_s)
            consumer.deliveries.clear()

    # --- what happens

    async def publish(self) -> None:
        first = len(self.model.keys)
        keys = self.random.choices(["a", "b", "c", None], k=self.random.randrange(1, 6))
        payloads = [b"%05d" % (first + number) for number in range(len(keys))]
        self.model.keys.update(zip(payloads, keys, strict=True))
        stored = len(self.publisher.receipts)
        self.publisher.session.publish(self.publisher.batch(*payloads, partition_keys=keys))
        await until(lambda: len(self.publisher.receipts) > stored)

    async def settle_some(self) -> None:
        for payload, (consumer, position) in list(self.model.out.items()):
            what = self.random.choice(["acknowledge", "fail", "give back", "", ""])
            if what:
                del self.model.out[payload]
                consumer.session.add_permits(1)
            match what:
                case "acknowledge":
                    self.acknowledge(consumer, position, payload)
                case "fail":
                    delay_s = self.random.choice(DELAYS_S)
                    self.model.failed.add(payload)
                    self.model.due_s[payload] = self.now_s + delay_s
                    consumer.session.negative([position], delay_s * 1_000, "no")
                case "give back":
                    consumer.session.give_back([position])

    def acknowledge(
        self, consumer: Subscriber, position: MessagePosition, payload: bytes
    ) -> None:
        self.model.done.add(payload)
        consumer.session.acknowledge([position], None, lambda _error: None)

    async def join(self) -> None:
        if not self.consumers or (
            self.kind is not SubscriptionKind.EXCLUSIVE and len(self.consumers) < 3
        ):
            self.consumers.append(await Subscriber.open(
                self.node, permits=self.random.choice([3, 10, 1_000]), **self.options))

    async def leave(self) -> None:
        consumer = self.consumers.pop(self.random.randrange(len(self.consumers)))
        self.model.gone(consumer)
        consumer.session.close()
        await self.join()

    async def move(self) -> None:
        await (await self.node.topic()).state.subscriptions["s"].flushed()
        if self.random.random() < 0.3:
            await (await self.node.topic()).state.compact()
        await (self.made.kill if self.random.random() < 0.5 else self.made.stop)(self.node)
        self.consumers.clear()
        self.model.out.clear()
        await self.begin()

    async def time(self) -> None:
        self.pass_time(self.random.choice([1, 31, 300]))
        self.made.forwarder.failure = self.random.choice([None, ConnectionFailed("not now")])
        self.made.forwarder.lose_answers = self.random.random() < 0.3

    async def end(self) -> None:
        """Whatever is left comes, and is acknowledged."""
        self.made.forwarder.failure, self.made.forwarder.lose_answers = None, False
        for _ in range(200):
            self.pass_time(60)
            await self.look()
            for payload, (consumer, position) in self.model.out.items():
                self.acknowledge(consumer, position, payload)
                consumer.session.add_permits(1)
            self.model.out.clear()
            if not self.model.left:
                break
        assert self.model.left == set()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_lost_early_overtaken_or_doubled(
    kind: SubscriptionKind, seed: int
) -> None:
    async with world() as made:
        scene = Scene(made, kind, seed)
        await scene.begin()
        for _ in range(40):
            await scene.look()
            [happens] = scene.random.choices(
                [scene.publish, scene.settle_some, scene.join, scene.leave, scene.time, scene.move],
                [25, 50, 7, 8, 5, 5])
            await happens()

        await scene.end()
        await settle()

        subscription = (await scene.node.topic()).state.subscriptions["s"]
        assert subscription.backlog_messages == 0
        assert len(subscription.counts) == len(subscription.dispatcher.waiting) == 0
        assert len(subscription.dispatcher.flights) == 0
