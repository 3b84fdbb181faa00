"""Brokers in one process over in-memory metadata and bookies, and clients of the plainest kind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from broker.broker import Broker
from broker.consumer_session import ConsumerSession
from broker.conversation import (
    SHARED_ACCESS,
    Access,
    ConsumerEvent,
    Delivery,
    MessagePosition,
    OpenConsumer,
    Receipt,
)
from broker.forwarding.lane import LaneLimits
from broker.ownership import Decision, ProbeResult, Verdict
from broker.producer_session import ProducerSession
from broker.settings import BrokerLimits, BrokerSettings
from broker.state_records import SubscriptionKind
from broker.topic import Topic
from ledger.driver import LedgerStore
from magnetar.entry import Columns, EntryView, encode_batch, parse_prefix
from magnetar.errors import MagnetarError
from magnetar.ids import BrokerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from metadata.bookies import BookieDirectory, BookieRepository
from metadata.cluster import initialize_cluster
from metadata.embedded import EmbeddedSession
from metadata.ledgers import LedgerRepository
from metadata.topics import TopicRepository
from tenants.policies import TopicPolicies
from tenants.resolver import PolicyResolver
from tests.broker.memory_forwarder import MemoryForwarder
from tests.ledger.cluster import LIMITS, Cluster, cluster, until

TOPIC = "persistent://public/default/orders"
NO_POLICIES = TopicPolicies()
LANE_LIMITS = LaneLimits(retry_first_s=0.002, retry_most_s=0.02)


class TestClock(SystemClock):
    """The machine's clock with a wall and a monotonic time that can be moved."""

    __test__ = False

    def __init__(self) -> None:
        self.wall_offset_ms = 0
        self.ahead_s = 0.0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.wall_offset_ms

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


class ScriptedProbe:
    """Answers what it was told to."""

    def __init__(self) -> None:
        self.result = ProbeResult.ALIVE
        self.asked: list[Address] = []

    async def probe(self, address: Address, timeout_s: float) -> ProbeResult:
        self.asked.append(address)
        return self.result


@dataclass
class Node:
    """One broker and what it stands on."""

    broker: Broker
    session: EmbeddedSession
    directory: BookieDirectory
    resolver: PolicyResolver
    probe: ScriptedProbe
    clock: TestClock

    async def topic(self, name: str = TOPIC) -> Topic:
        """Loaded here, at once."""
        await self.broker.lookup(name)
        topic = self.broker.registry.get(name)
        assert topic is not None
        return topic


    async def take(self, name: str = TOPIC) -> None:
        """The topic, from an owner that lives and looks silent."""
        record, _ = await TopicRepository(self.session).get(name)
        await self.broker.registry.obtain(name, Decision(Verdict.HERE, former=record.owner))


class World:
    """Bookies and brokers that share them."""

    def __init__(self, ground: Cluster) -> None:
        self.ground = ground
        self.nodes: list[Node] = []
        self.forwarder = MemoryForwarder(
            lambda: [node.broker for node in self.nodes if node.broker.serving]
        )

    async def broker(
        self, name: str = "b1", policies: TopicPolicies = NO_POLICIES,
        limits: BrokerLimits | None = None, address: Address | None = None,
        lane_limits: LaneLimits = LANE_LIMITS,
    ) -> Node:
        session = self.ground.embedded.open_session()
        directory = BookieDirectory(BookieRepository(session))
        await directory.start()
        clock, probe = TestClock(), ScriptedProbe()
        chance = random.Random(f"{name} {len(self.nodes)}")
        ledgers = LedgerStore(
            LedgerRepository(session), directory, self.ground.bookies, clock, chance, LIMITS
        )
        resolver = PolicyResolver(session, defaults=policies)
        settings = BrokerSettings(BrokerId(name), limits=limits or BrokerLimits())
        broker = Broker(
            session, ledgers, resolver, clock, chance, settings, probe,
            address or Address("127.0.0.1", 7000 + int(name.strip("b"))),
            forwarder=self.forwarder, lane_limits=lane_limits,
        )
        await broker.start()
        node = Node(broker, session, directory, resolver, probe, clock)
        self.nodes.append(node)
        for other in self.nodes:
            if other.broker.serving:
                await until(lambda other=other: any(  # type: ignore[misc]
                    one.broker_id == name and one.incarnation == broker.incarnation
                    for one in other.broker.directory.all()
                ))
        return node

    async def stop(self, node: Node) -> None:
        """In good order; one that is gone already is left alone."""
        if node in self.nodes:
            await node.broker.stop()
            await self._close(node)

    async def kill(self, node: Node) -> None:
        """Without a word: its session ends, its ledgers stay open."""
        node.broker.crash()
        await self._close(node)

    async def _close(self, node: Node) -> None:
        if node in self.nodes:
            self.nodes.remove(node)
            node.resolver.stop()
            await node.directory.stop()
            await node.broker.directory.stop()
            await node.session.close()

    async def close(self) -> None:
        for node in list(self.nodes):
            await self.stop(node)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    async with cluster("k1", "k2", "k3") as ground:
        await initialize_cluster(
            ground.session, random_bytes=random.Random(1).randbytes, clock=SystemClock()
        )
        made = World(ground)
        try:
            yield made
        finally:
            await made.close()


@dataclass
class Publisher:
    """A producer that collects its receipts."""

    receipts: list[Receipt] = field(default_factory=list)
    ended: list[MagnetarError] = field(default_factory=list)
    session: ProducerSession = None  # type: ignore[assignment]
    next_sequence_id: int = 0

    @classmethod
    async def open(
        cls, node: Node, name: str = "", epoch: int = 0, topic: str = TOPIC,
        access: Access = SHARED_ACCESS,
    ) -> Publisher:
        made = cls()
        made.session = await node.broker.open_producer(
            topic, name, epoch, made.receipts.extend, made.ended.append, access
        )
        made.next_sequence_id = made.session.last_sequence_id + 1
        return made

    def batch(self, *payloads: bytes, first: int | None = None, **columns: object) -> bytes:
        start = self.next_sequence_id if first is None else first
        self.next_sequence_id = start + len(payloads)
        return encode_batch(
            self.session.producer_name, start, list(payloads), publish_time_ms=1,
            columns=Columns(**columns),  # type: ignore[arg-type]
        )

    async def publish(self, *payloads: bytes, first: int | None = None) -> Receipt:
        """One batch, stored."""
        expected = len(self.receipts) + self.session.outstanding + 1
        self.session.publish(self.batch(*payloads, first=first))
        await until(lambda: len(self.receipts) >= expected)
        receipt = self.receipts[-1]
        assert receipt.error is None, receipt.error
        return receipt


@dataclass
class Subscriber:
    """A consumer that collects its deliveries."""

    deliveries: list[Delivery] = field(default_factory=list)
    ended: list[MagnetarError] = field(default_factory=list)
    events: list[ConsumerEvent] = field(default_factory=list)
    session: ConsumerSession = None  # type: ignore[assignment]
    backlog_bytes: int = 0

    @classmethod
    async def open(
        cls, node: Node, subscription: str = "s", permits: int = 1_000, **options: object
    ) -> Subscriber:
        request = OpenConsumer(str(options.pop("topic", TOPIC)), subscription)
        if options.pop("shared", False):
            request = replace(request, kind=SubscriptionKind.SHARED)
        request = replace(request, **options)  # type: ignore[arg-type]
        made = cls()
        made.session = await node.broker.open_consumer(
            request, made.deliveries.extend, made.ended.append, lambda: made.backlog_bytes,
            made.events.append,
        )
        made.session.add_permits(permits)
        return made

    @property
    def payloads(self) -> list[bytes]:
        """Of all messages that were meant, in the order in which they came."""
        return [payload for one in self.deliveries for payload in payloads_of(one)]

    async def receive(self, count: int) -> list[bytes]:
        await until(lambda: len(self.payloads) >= count)
        return self.payloads

    async def acknowledge(
        self, *positions: MessagePosition, cumulative: MessagePosition | None = None
    ) -> MagnetarError | None:
        answers: list[MagnetarError | None] = []
        self.session.acknowledge(positions, cumulative, answers.append)
        await until(lambda: bool(answers))
        return answers[0]


def payloads_of(delivery: Delivery) -> list[bytes]:
    _, batch = parse_prefix(delivery.entry)
    view = EntryView(batch)
    skip = int.from_bytes(delivery.skip, "little")
    return [view.payload(index) for index in range(view.count) if not skip >> index & 1]


def positions_of(deliveries: Iterable[Delivery], *payloads: bytes) -> list[MessagePosition]:
    """Where the messages with these payloads are; without any, all that were meant."""
    found = []
    for one in deliveries:
        _, batch = parse_prefix(one.entry)
        view, skip = EntryView(batch), int.from_bytes(one.skip, "little")
        picked = [n for n in range(len(one.picked) * 8) if one.picked[n // 8] >> n % 8 & 1]
        for place in range(view.count):
            if skip >> place & 1 or (payloads and view.payload(place) not in payloads):
                continue
            index = picked[place] if picked else place
            found.append(MessagePosition(one.ledger_id, one.entry_id, index))
    return found


def position_of(delivery: Delivery, index: int = -1, mask: int = 0) -> MessagePosition:
    return MessagePosition(delivery.ledger_id, delivery.entry_id, index, mask)


async def settle(turns: int = 200) -> None:
    """Let everything happen that can happen without anything new."""
    for _ in range(turns):
        await asyncio.sleep(0)


__all__ = [
    "TOPIC", "Node", "Publisher", "Subscriber", "World", "payloads_of",
    "position_of", "positions_of", "settle", "until", "world",
]
