"""A million messages, every second one acknowledged: exact, small, and quick to read back."""

from __future__ import annotations

import asyncio

from broker.conversation import Delivery, InitialPosition, MessagePosition, OpenConsumer
from broker.settings import BrokerLimits
from broker.state_records import encode
from tenants.policies import TopicPolicies
from tests.broker.world import TOPIC, Node, Publisher, until, world

ENTRIES, MESSAGES = 1_000, 1_000
TOTAL = ENTRIES * MESSAGES
EVERY_SECOND = int.from_bytes(b"\xaa" * (MESSAGES // 8), "little")
UNBOUNDED = TopicPolicies(
    max_unacked_messages_per_consumer=-1, max_unacked_messages_per_subscription=-1
)
LIMITS = BrokerLimits(tail_cache_bytes=1 << 20)


async def publish(node: Node) -> None:
    publisher = await Publisher.open(node)
    for _ in range(ENTRIES):
        publisher.session.publish(publisher.batch(*[b"x"] * MESSAGES))
        if publisher.session.outstanding > 50:
            await asyncio.sleep(0)
    await until(lambda: len(publisher.receipts) == ENTRIES)


class Counter:
    """A consumer that counts, and acknowledges what it is told to of each entry."""

    def __init__(self, mask: int = 0) -> None:
        self.mask = mask
        self.messages = 0
        self.unanswered = 0
        self.skipped: set[bytes] = set()

    async def open(self, node: Node) -> None:
        self.session = await node.broker.open_consumer(
            OpenConsumer(TOPIC, "s", initial_position=InitialPosition.EARLIEST), self.deliver,
            lambda _: None,
        )
        self.session.add_permits(2 * TOTAL)

    def deliver(self, deliveries: list[Delivery]) -> None:
        for one in deliveries:
            self.messages += MESSAGES - int.from_bytes(one.skip, "little").bit_count()
            self.skipped.add(one.skip)
            if self.mask:
                self.unanswered += 1
                position = MessagePosition(one.ledger_id, one.entry_id, batch_mask=self.mask)
                self.session.acknowledge([position], None, self.answered)

    def answered(self, error: object) -> None:
        assert error is None
        self.unanswered -= 1


async def test_half_a_million_holes_are_exact_and_survive() -> None:
    async with world() as made:
        node = await made.broker("b1", policies=UNBOUNDED, limits=LIMITS)
        await publish(node)
        counter = Counter(EVERY_SECOND)
        await counter.open(node)
        await until(lambda: counter.messages == TOTAL and not counter.unanswered)

        topic = await node.topic()
        subscription = topic.state.subscriptions["s"]
        assert subscription.backlog_messages == TOTAL // 2
        assert counter.session.unacknowledged == TOTAL // 2
        assert subscription.cursor.chunk_count <= TOTAL // 4_096 + 1
        assert sum(len(encode(record)) for record in subscription.snapshot()) < 20_000
        await topic.state.compact()
        await made.kill(node)

        successor = await made.broker("b2", policies=UNBOUNDED, limits=LIMITS)
        again = Counter()
        await again.open(successor)
        await until(lambda: again.messages == TOTAL // 2)
        assert again.skipped == {EVERY_SECOND.to_bytes(MESSAGES // 8, "little")}
        restored = (await successor.topic()).state.subscriptions["s"]
        assert restored.backlog_messages == again.session.unacknowledged == TOTAL // 2
