"""Clients: the SDK's resend core on a simulated stream, and a consumer that acknowledges."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Any

from broker.conversation import (
    Delivery,
    HoldFailedKeys,
    InitialPosition,
    MessagePosition,
    OpenConsumer,
)
from broker.state_records import SubscriptionKind
from magnetar.batch import Batch, Options
from magnetar.entry import EntryView, SchedulePlace, parse_prefix
from magnetar.errors import ConnectionFailed, MagnetarError, OperationTimeout
from magnetar.producer_core import ProducerCore, ProducerLimits
from magnetar.runtime.network import Address
from tests.sim import messages
from tests.sim.history import Place
from tests.sim.network import Side, SimNetwork
from tests.sim.processes import Process

if TYPE_CHECKING:
    from tests.sim.cluster_world import ClusterWorld

OPEN_TIMEOUT_S = 2.0
KEEPALIVE_S = 4.0
"""A stream that owes an answer for so long is given up, as the real SDK's keepalive does."""


class Stream:
    """A link to a broker with an inbox."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.link: Side | None = None

    async def open(self, address: Address) -> None:
        self.link = await self._client.network.connect(
            address, self.inbox.put_nowait, lambda: self.inbox.put_nowait(None), 0.5
        )

    async def receive(self, timeout_s: float | None = None) -> Any:
        """The next message; raises ConnectionFailed at the end of the stream."""
        try:
            async with asyncio.timeout(timeout_s):
                message = await self.inbox.get()
        except TimeoutError:
            raise ConnectionFailed("no answer") from None
        if message is None:
            raise ConnectionFailed("the link was lost")
        if isinstance(message, messages.Ended):
            raise message.error
        return message

    def send(self, message: Any) -> None:
        assert self.link is not None
        self.link.send_object(message)

    def close(self) -> None:
        if self.link is not None:
            self.link.close()


class Client(Process):
    """Finds the owner, opens a stream, and again whenever it is lost."""

    world: ClusterWorld
    network: SimNetwork

    async def main(self) -> None:
        assert self.host is not None
        self.network = SimNetwork(self.world.fabric, self.host)
        self.random = self.chance()
        unreachable = ""
        while not self.finished():
            try:
                address, relay = await self._find(unreachable)
                unreachable = str(address)
                stream = Stream(self)
                try:
                    await stream.open(address)
                    await self.converse(stream, relay)
                    unreachable = ""
                finally:
                    stream.close()
            except (ConnectionFailed, OperationTimeout) as error:
                self.lost(error)
            except MagnetarError as error:
                unreachable = ""
                self.lost(error)
            await self.clock.sleep(self.random.uniform(0.02, 0.15))

    def finished(self) -> bool:
        return False

    def lost(self, error: MagnetarError) -> None:
        """The stream ended."""
        self.world.trace.note("stream lost", f"{self.name} {type(error).__name__}: {error}")

    async def converse(self, stream: Stream, relay: bool) -> None:
        """Speak on an open stream until it ends."""
        raise NotImplementedError

    async def _find(self, unreachable: str) -> tuple[Address, bool]:
        asked = Address(self.random.choice(self.world.brokers).name, 6650)
        stream = Stream(self)
        try:
            await stream.open(asked)
            stream.send(messages.Lookup(self.world.topic, unreachable))
            answer = await stream.receive(OPEN_TIMEOUT_S)
        finally:
            stream.close()
        if answer.error is not None:
            raise answer.error
        if answer.result.relay:
            return asked, True
        return Address.parse(answer.result.owner_address), False


class SimProducer(Client):
    """Publishes numbered messages through `ProducerCore`; the core survives lost streams only."""

    def __init__(self, world: ClusterWorld, name: str) -> None:
        super().__init__(world, name)
        self._number = 0
        self._numbers: dict[Batch, list[int]] = {}
        self._core: ProducerCore | None = None
        self._feeding: asyncio.Task[None] | None = None

    def begin(self) -> None:
        config = self.world.config
        self._numbers = {}
        self._core = ProducerCore(self.clock, ProducerLimits(
            batch_messages=config.batch_max, batches_in_flight=16, eager_batches=6,
            frame_bytes=1_500, queue_bytes=20_000,
        ))
        self._delays = False
        self._wake = asyncio.Event()
        self._feeding = None

    def ended(self, power_cut: bool) -> None:
        for numbers in self._numbers.values():
            for number in numbers:
                self.world.history.unknown(self.name, number)
        self._numbers = {}

    @property
    def unsettled(self) -> int:
        """Batches without an outcome."""
        return len(self._numbers)

    async def converse(self, stream: Stream, relay: bool) -> None:
        core = self._core
        assert core is not None
        stream.send(messages.OpenProducer(
            self.world.topic, self.name, core.producer_epoch, relay
        ))
        opened = await stream.receive(OPEN_TIMEOUT_S)
        core.opened(opened.name, opened.epoch, opened.last_sequence_id, opened.max_message_bytes)
        if self._feeding is None:
            self._feeding = asyncio.ensure_future(self._feed())
        sender = asyncio.ensure_future(self._send(stream))
        try:
            while True:
                answer = await stream.receive(KEEPALIVE_S if self._numbers else None)
                for receipt in answer.receipts:
                    settled = core.receipt(
                        receipt.first_sequence_id, receipt.count, receipt.ledger_id,
                        receipt.entry_id, receipt.error,
                    )
                    if settled is not None:
                        self._settled(settled)
                self._wake.set()
        finally:
            sender.cancel()
            core.disconnected()

    async def _send(self, stream: Stream) -> None:
        core = self._core
        assert core is not None
        while True:
            while batches := core.next_batches():
                stream.send(messages.Publish(batches))
            self._wake.clear()
            await self._wake.wait()

    def _settled(self, batch: Batch) -> None:
        history, now_s = self.world.history, self.world.loop.time()
        outcome = batch.outcome
        for index, number in enumerate(self._numbers.pop(batch)):
            if not isinstance(outcome, tuple):
                self.world.trace.note("failed", f"{self.name}/{number} {outcome!r}")
                history.failed(self.name, number)
                continue
            known = outcome[1] >= 0 and index >= batch.already_stored
            if batch.delayed:
                self.world.schedule.stored((self.name, number), SchedulePlace(
                    *outcome, index - batch.already_stored) if known else None, now_s)
                history.acked(self.name, number, None, now_s)
                continue
            place = Place(*outcome) if known else None
            history.acked(self.name, number, place, now_s)

    async def _feed(self) -> None:
        """Bursts of messages with pauses between, until enough is published."""
        world, config, core = self.world, self.world.config, self._core
        assert core is not None
        while not world.subscribed:
            await self.clock.sleep(0.02)
        while not world.enough_published():
            if world.quiet:
                await self.clock.sleep(0.02)
                continue
            for _ in range(config.burst * (1 + config.batch_max) // 2):
                if core.pending_bytes > 8_000:
                    break
                content = f"{self.name}/{self._number}/".encode()
                content += b"x" * self.random.randrange(40)
                due_ms = self._due_ms()
                batch = core.add(content, self._options(self._number, due_ms))
                self._numbers.setdefault(batch, []).append(self._number)
                world.history.sent(
                    self.name, self._number, world.loop.time(), due_ms is not None
                )
                if due_ms is not None:
                    world.schedule.sent((self.name, self._number), due_ms)
                self._number += 1
            self._wake.set()
            await self.clock.sleep(config.gap_s * self.random.uniform(0.5, 1.5))

    def _due_ms(self) -> int | None:
        """When the next message is to be delivered; None: at once. What is alike comes in rows,
        so that batches are not all of one message."""
        config, chance = self.world.config, self.random
        if not config.delayed_share:
            return None
        if chance.random() < 0.3:
            self._delays = chance.random() < config.delayed_share
        if not self._delays:
            return None
        longest_ms = chance.choice((150, 1_200, 1_200, 4_000))
        return self.clock.wall_ms() + chance.randrange(-20, longest_ms)

    def _options(self, number: int, due_ms: int | None) -> Options | None:
        """A key, where the seed has keys; both producers send of the same ones."""
        keys = self.world.config.key_count
        key = f"k{zlib.crc32(f'{self.name}/{number}'.encode()) % keys}" if keys else None
        if key is None and due_ms is None:
            return None
        return Options(partition_key=key, deliver_at_ms=due_ms, size_bytes=len(key or ""))


class SimConsumer(Client):
    """Consumes the subscription; acknowledges a share of what it gets."""

    def __init__(self, world: ClusterWorld, name: str, subscription: str) -> None:
        super().__init__(world, name)
        self.subscription = subscription
        self.final = False
        self.received: set[tuple[str, int]] = set()

    @property
    def kind(self) -> SubscriptionKind:
        """Of the subscription."""
        config = self.world.config
        if config.spread:
            return SubscriptionKind[config.spread.upper()]
        return SubscriptionKind.SHARED if config.subscription_shared else (
            SubscriptionKind.EXCLUSIVE
        )

    def finished(self) -> bool:
        return self.world.consuming_ended and not self.final

    async def converse(self, stream: Stream, relay: bool) -> None:
        world, config = self.world, self.world.config
        stream.send(messages.Subscribe(OpenConsumer(
            world.topic, self.subscription, self.kind, InitialPosition.EARLIEST,
            consumer_name=self.name, hold_failed_keys=HoldFailedKeys.PASS,
            max_deliveries=0 if self.final else config.max_deliveries,
        ), relay))
        await stream.receive(OPEN_TIMEOUT_S)
        world.subscribed = True
        self._requests: dict[int, list[tuple[str, int]]] = {}
        self._last_request = 0
        permits = 1_000_000 if self.final else config.permits
        stream.send(messages.Permits(permits))
        while not self.finished():
            answer = await stream.receive()
            if isinstance(answer, messages.Deliveries):
                for delivery in answer.deliveries:
                    self._delivered(stream, delivery)
            elif isinstance(answer, messages.Done):
                self._done(answer)
        stream.send(messages.Close())
        await self.clock.sleep(0.05)

    def _delivered(self, stream: Stream, delivery: Delivery) -> None:
        world, config = self.world, self.world.config
        place = Place(delivery.ledger_id, delivery.entry_id)
        world.note_read(self.name, place, bytes(delivery.entry))
        _, batch = parse_prefix(delivery.entry)
        view = EntryView(batch)
        skip = int.from_bytes(delivery.skip, "little")
        acknowledged, poison, used = [], [], 0
        for index in range(view.count):
            if skip >> index & 1:
                continue
            used += 1
            producer, number, _ = bytes(view.payload(index)).decode().split("/", 2)
            key = (producer, int(number))
            self.received.add(key)
            world.history.seen_messages.add(key)
            if world.is_poison(key):
                poison.append(MessagePosition(delivery.ledger_id, delivery.entry_id, index))
            elif not world.keeps_back(key) and self.random.random() < config.acknowledge_share:
                acknowledged.append((key, index))
        if self.final:
            return
        if world.quiet:
            acknowledged = []
        stream.send(messages.Permits(used))
        if poison and not world.quiet:
            stream.send(messages.Redeliver(poison))
        if acknowledged:
            self._acknowledge(stream, delivery, acknowledged, used)
        elif self.random.random() < 0.1:
            stream.send(messages.Redeliver(
                [MessagePosition(delivery.ledger_id, delivery.entry_id)]
            ))

    def _acknowledge(
        self, stream: Stream, delivery: Delivery,
        acknowledged: list[tuple[tuple[str, int], int]], used: int,
    ) -> None:
        self._last_request += 1
        keys = [key for key, _ in acknowledged]
        self._requests[self._last_request] = keys
        self.world.history.consume_asked.update(keys)
        ledger_id, entry_id = delivery.ledger_id, delivery.entry_id
        positions = [MessagePosition(ledger_id, entry_id, index) for _, index in acknowledged]
        stream.send(messages.Acknowledge(self._last_request, positions, None))

    def _done(self, answer: messages.Done) -> None:
        keys = self._requests.pop(answer.request_id)
        if answer.error is None:
            for key in keys:
                self.world.history.consumed_durably.setdefault(key, self.world.loop.time())
