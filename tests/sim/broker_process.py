"""A real broker core behind a simulated port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from broker.broker import Broker
from broker.consumer_session import ConsumerSession
from broker.conversation import Delivery
from broker.forwarding.lane import LaneLimits
from broker.ownership import ProbeResult
from broker.producer_session import ProducerSession
from broker.schedule.interface import ScheduleAnswer
from broker.schedule.runs.builder import BlockLimits
from broker.schedule.schedule import Schedule
from broker.settings import BrokerLimits, BrokerSettings
from magnetar.entry import SchedulePlace
from magnetar.errors import ConnectionFailed, MagnetarError
from magnetar.ids import BrokerId
from magnetar.runtime.network import Address
from tenants.resolver import PolicyResolver
from tests.sim import messages
from tests.sim.forwarder import SimForwarder
from tests.sim.log_owner import LedgerUser
from tests.sim.network import Side, SimNetwork

if TYPE_CHECKING:
    from tests.sim.cluster_world import ClusterWorld

BROKER_PORT = 6650
LANE_LIMITS = LaneLimits(
    parcel_bytes=1_500, parcel_messages=2, kept_bytes=2_000, retry_first_s=0.1, retry_most_s=0.5)
LISTED_AT_ONCE = 7
BLOCKS = BlockLimits(message_bytes=400, messages=4, tombs=2, names=3)


class SimProbe:
    """Asks another broker's port for a hello."""

    def __init__(self, network: SimNetwork) -> None:
        self._network = network

    async def probe(self, address: Address, timeout_s: float) -> ProbeResult:
        answered = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                link = await self._network.connect(
                    address, lambda _: answered.set(), lambda: None, timeout_s
                )
                link.send_object(messages.Hello())
                await answered.wait()
                link.close()
                return ProbeResult.ALIVE
        except TimeoutError:
            return ProbeResult.SILENT
        except ConnectionFailed as error:
            refused = "refused" in str(error)
            return ProbeResult.REFUSED if refused else ProbeResult.SILENT


class BrokerProcess(LedgerUser):
    """One broker; its clients speak the messages of `tests.sim.messages`."""

    world: ClusterWorld

    def __init__(self, world: ClusterWorld, name: str) -> None:
        super().__init__(world, name)
        self.broker: Broker | None = None

    def begin(self) -> None:
        self.broker = None

    async def main(self) -> None:
        assert self.host is not None and self.store is not None
        ledgers = await self.open_ledgers()
        self.network = SimNetwork(self.world.fabric, self.host)
        address = Address(self.name, BROKER_PORT)
        config = self.world.config
        limits = BrokerLimits(
            tail_cache_bytes=4_000, read_ahead_bytes=2_000, read_ahead_entries=20,
            frame_bytes=2_000, checkpoint_entries=config.checkpoint_entries,
            state_compaction_bytes=1_500, maintenance_interval_s=0.5, takeover_pause_s=1.0,
            load_timeout_s=6.0, drain_timeout_s=2.0, remembered_batches=64, idle_unload_s=5.0,
            pending_publish_bytes=4_000, schedule_entry_messages=5, schedule_entry_bytes=400,
            schedule_entries_in_flight=2, schedule_memory_bytes=config.schedule_memory_bytes,
            schedule_ledger_bytes=2_000, schedule_runs=config.schedule_runs,
            schedule_runs_merged=2, schedule_garbage_bytes=300, schedule_blocks=BLOCKS,
        )
        broker = Broker(
            self.store, ledgers, PolicyResolver(self.store, defaults=self.world.policies),
            self.clock, self.chance(), BrokerSettings(BrokerId(self.name), limits=limits),
            SimProbe(self.network), address,
            forwarder=SimForwarder(self.network, address, self.world.rare), lane_limits=LANE_LIMITS,
        )
        await broker.start()
        await self.network.listen(address, self._accept)
        self.broker = broker

    def _accept(self, link: Side):  # type: ignore[no-untyped-def]
        conversation = Conversation(self, link)
        return conversation.on_message, conversation.on_closed


class Conversation:
    """One client's link: a lookup, a producer's stream, a consumer's stream or a relay."""

    def __init__(self, process: BrokerProcess, link: Side) -> None:
        assert process.broker is not None
        self._process = process
        self._broker = process.broker
        self._link = link
        self._producer: ProducerSession | None = None
        self._consumer: ConsumerSession | None = None
        self._onward: Side | None = None
        self._waiting: list[Any] = []
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self._changes: set[asyncio.Task[None]] = set()

    def on_message(self, message: Any) -> None:
        match message:
            case messages.Hello():
                self._link.send_object(messages.Hello())
            case messages.Lookup():
                self._start(self._look_up(message))
            case messages.ChangeSchedule():
                self._change(message)
            case messages.OpenProducer() | messages.Subscribe():
                self._start(self._relay(message) if message.relay else self._open(message))
            case messages.Close():
                self.on_closed()
                self._link.close()
            case _ if self._onward is not None:
                self._onward.send_object(message)
            case _:
                self._take(message)

    def _take(self, message: Any) -> None:
        match message:
            case messages.Publish() if self._producer is not None:
                try:
                    for batch in message.batches:
                        self._producer.publish(batch)
                except MagnetarError as error:
                    self._end(error)
            case messages.Permits() if self._consumer is not None:
                self._consumer.add_permits(message.messages)
            case messages.Acknowledge() if self._consumer is not None:
                done = self._process.world.watch.acknowledged(
                    self._consumer, message.individual, self._done(message.request_id))
                self._consumer.acknowledge(message.individual, message.cumulative, done)
            case messages.Redeliver() if self._consumer is not None:
                self._consumer.redeliver(message.positions)
            case messages.GiveBack() if self._consumer is not None:
                self._process.world.watch.returned(
                    self._consumer, message.positions, message.delay_ms)
                self._consumer.negative(
                    message.positions, message.delay_ms, counted=message.counted)

    def _deliver(self, found: list[Delivery]) -> None:
        if self._consumer is not None:
            self._process.world.watch.delivered(self._consumer, found)
        self._link.send_object(messages.Deliveries(found))

    def _done(self, request_id: int) -> Callable[[MagnetarError | None], None]:
        return lambda error: self._link.send_object(messages.Done(request_id, error))

    def _change(self, request: messages.ChangeSchedule) -> None:
        """Several at a time; each ends with its link, as a call of the real server does."""
        task = asyncio.ensure_future(self._changed(request))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _changed(self, request: messages.ChangeSchedule) -> None:
        world = self._process.world
        answers: list[ScheduleAnswer] = []
        failure, owned = None, world.owner_process() is self._process
        try:
            schedule = (await self._broker.existing_topic(request.topic)).schedule
            if not request.places:
                await self._list(schedule)
            elif request.deliver_at_ms is None:
                answers = await schedule.cancel(request.places)
            else:
                (place,) = request.places
                answers = [await schedule.move(place, request.deliver_at_ms)]
        except MagnetarError as error:
            failure = error
        owned = owned and world.owner_process() is self._process
        self._link.send_object(
            messages.ScheduleAnswers(request.request_id, answers, owned, failure)
        )

    async def _list(self, schedule: Schedule) -> None:
        """All pages. A broker that another has replaced may not know of everything."""
        world, asked_s = self._process.world, self._process.world.loop.time()
        owned = world.owner_process() is self._process
        listed: set[SchedulePlace] = set()
        page = await schedule.list(limit=LISTED_AT_ONCE)
        while True:
            listed.update(one.place for one in page.messages)
            if not page.cursor:
                break
            page = await schedule.list(limit=LISTED_AT_ONCE, cursor=page.cursor)
        if owned and world.owner_process() is self._process:
            clock_ms = max(broker.clock.latest_ms for broker in world.brokers)
            world.schedule.listed(listed, asked_s, clock_ms)

    def _start(self, work: Any) -> None:
        self._task = asyncio.ensure_future(self._guard(work))

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except MagnetarError as error:
            self._end(error)

    def _end(self, error: MagnetarError) -> None:
        if not self._closed:
            self._link.send_object(messages.Ended(error))
            self._link.close()
            self.on_closed()

    async def _look_up(self, message: messages.Lookup) -> None:
        try:
            result = await self._broker.lookup(message.topic, message.unreachable_address)
            self._link.send_object(messages.LookedUp(result))
        except MagnetarError as error:
            self._link.send_object(messages.LookedUp(None, error))

    async def _open(self, message: messages.OpenProducer | messages.Subscribe) -> None:
        if isinstance(message, messages.OpenProducer):
            producer = await self._broker.open_producer(
                message.topic, message.name, message.epoch,
                lambda receipts: self._link.send_object(messages.Receipts(receipts)), self._end,
            )
            if self._closed:
                producer.close()
                return
            self._producer = producer
            self._link.send_object(messages.ProducerOpened(
                producer.producer_name, producer.producer_epoch, producer.last_sequence_id,
                producer.max_message_size_bytes,
            ))
        else:
            consumer = await self._broker.open_consumer(message.request, self._deliver, self._end)
            if self._closed:
                consumer.close()
                return
            self._consumer = consumer
            self._link.send_object(messages.Subscribed(consumer.consumer_id))

    async def _relay(self, message: Any) -> None:
        """Pass the stream on to the owner, as the real relay does."""
        owner = await self._broker.owner_address(message.topic)
        if owner is None:
            await self._open(message)
            return
        onward = await self._process.network.connect(
            owner, self._link.send_object, self._link.close, 0.5
        )
        if self._closed:
            onward.close()
            return
        self._onward = onward
        onward.send_object(
            messages.OpenProducer(message.topic, message.name, message.epoch)
            if isinstance(message, messages.OpenProducer) else messages.Subscribe(message.request)
        )

    def on_closed(self) -> None:
        if self._closed:
            return
        self._closed = True
        for change in self._changes:
            change.cancel()
        for session in (self._producer, self._consumer):
            if session is not None:
                session.close()
        if self._onward is not None:
            self._onward.close()
