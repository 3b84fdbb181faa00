"""A broker in memory that speaks the real protocol over real gRPC, and misbehaves on demand.

It proves the SDK against lost links, lost, doubled and reordered receipts, and lost replies to
acknowledgements. It keeps everything that was appended, so that a test can compare.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc

from magnetar.entry import EntryView, Flag, check
from magnetar.errors import ConsumerBusy, InvalidFrame, NotSupported
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_error
from magnetar.wire.frames import decode_batches
from magnetar.wire.options import SERVER_OPTIONS
from tests.client.memory_subscription import (
    LEDGER_ID,
    LinkDropped,
    MemorySession,
    MemorySubscription,
)


@dataclass
class MemoryTopic:
    name: str
    cluster: MemoryCluster
    entries: list[bytes] = field(default_factory=list)
    sources: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    subscriptions: dict[str, MemorySubscription] = field(default_factory=dict)
    sessions: list[MemorySession] = field(default_factory=list)
    terminated: bool = False
    views: list[EntryView] = field(default_factory=list)

    def last_sequence_id(self, producer: str) -> int:
        known = self.sources.get(producer)
        return -1 if not known else max(last for last, _ in known.values())

    def payloads(self) -> list[bytes]:
        return [payload for entry in self.entries for payload in EntryView(entry).payloads()]

    def view(self, entry: int) -> EntryView:
        while len(self.views) <= entry:
            self.views.append(EntryView(self.entries[len(self.views)]))
        return self.views[entry]

    def end(self, initial_position: int) -> int:
        return 0 if initial_position == pb.EARLIEST else len(self.entries)

    def subscription(self, opening: pb.OpenConsumer) -> MemorySubscription:
        """A broadcast consumer has one of its own, under its name."""
        name = opening.subscription
        if opening.type == pb.BROADCAST:
            name += f"@{opening.consumer_name}"
        known = self.subscriptions.get(name)
        if known is None:
            begin = self.end(opening.initial_position)
            known = self.subscriptions[name] = MemorySubscription(self, opening.type, begin)
        return known

    def append(self, batch: bytes) -> None:
        self.entries.append(batch)
        self.pump()

    def pump(self) -> None:
        for session in self.sessions:
            session.subscription.pump()

    def terminate(self) -> None:
        self.terminated = True
        self.pump()

    def publish(self, batch: bytes) -> pb.Receipt:
        header = check(batch)
        last = self.last_sequence_id(header.producer_name)
        known = self.sources.setdefault(header.producer_name, {})
        receipt = pb.Receipt(
            first_sequence_id=header.first_sequence_id, count=header.count, ledger_id=LEDGER_ID)
        if header.flags & Flag.DELIVER_AT:
            receipt.error.CopyFrom(to_error(NotSupported("no delayed delivery here")))
        elif header.first_sequence_id <= last < header.last_sequence_id:
            receipt.error.CopyFrom(pb.Error(code=pb.SEQUENCE_OVERLAP, last_sequence_id=last))
        elif header.last_sequence_id <= last:
            _, receipt.entry_id = known.get(header.first_sequence_id, (0, -1))
        else:
            known[header.first_sequence_id] = (header.last_sequence_id, len(self.entries))
            receipt.entry_id = len(self.entries)
            self.append(batch)
        return receipt


class MemoryCluster:
    """What the brokers share."""

    def __init__(self) -> None:
        self.topics: dict[str, MemoryTopic] = {}
        self.brokers: list[MemoryBroker] = []
        self.owner: str = ""
        self.unreachable_told: list[str] = []
        self.relay_only = False
        self.receipts: deque[str] = deque()
        """What to do with the next batches: ok, lose, refuse, twice, skip, unavailable, or the
        name of an error code that the batch is refused with."""
        self.lose_acknowledge_replies = 0
        self.lose_goodbyes = False
        self.acknowledge_requests = 0
        self.max_message_bytes = 0
        self.hold_receipts: asyncio.Event | None = None

    def topic(self, name: str) -> MemoryTopic:
        full = TopicName.parse(name).full
        return self.topics.setdefault(full, MemoryTopic(full, self))

    async def start_broker(self) -> MemoryBroker:
        broker = MemoryBroker(self)
        await broker.start()
        self.brokers.append(broker)
        self.owner = self.owner or broker.address
        return broker

    @property
    def url(self) -> str:
        return "magnetar://" + ",".join(broker.address for broker in self.brokers)

    async def stop(self) -> None:
        for broker in self.brokers:
            await broker.kill()

    def drop_links(self) -> None:
        for broker in self.brokers:
            broker.drop_links()


class MemoryBroker:
    """One gRPC server."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster
        self.address = ""
        self.opened_with_relay = 0
        self.streams_opened = 0
        self._links: set[asyncio.Event] = set()
        self._sessions: set[MemorySession] = set()
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "magnetar.v1.Broker", {
                "Hello": grpc.unary_unary_rpc_method_handler(self.hello),
                "Lookup": grpc.unary_unary_rpc_method_handler(self.look_up),
                "Produce": grpc.stream_stream_rpc_method_handler(self.produce),
                "Consume": grpc.stream_stream_rpc_method_handler(self.consume),
            }),))

    async def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("localhost:0", credentials)
        self.address = f"{'127.0.0.1' if credentials is None else 'localhost'}:{port}"
        await self._server.start()

    async def kill(self) -> None:
        await self._server.stop(None)

    def drop_links(self) -> None:
        for link in self._links:
            link.set()
        for session in self._sessions:
            session.out.put_nowait(None)

    async def hello(self, _request: bytes, _context: object) -> bytes:
        return pb.HelloReply(protocol_version=1, broker_id="b").SerializeToString()

    async def look_up(self, request: bytes, _context: object) -> bytes:
        asked = pb.LookupRequest.FromString(request)
        cluster = self.cluster
        if asked.unreachable_address:
            cluster.unreachable_told.append(asked.unreachable_address)
            if not cluster.relay_only and asked.unreachable_address == cluster.owner:
                cluster.owner = self.address
        relay = bool(cluster.relay_only and asked.unreachable_address)
        return pb.LookupReply(
            owner_address=cluster.owner, topic=asked.topic, relay=relay).SerializeToString()

    async def produce(
        self, frames: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        opening = pb.ProduceRequest.FromString(await anext(aiter(frames))).open
        self.streams_opened += 1
        self.opened_with_relay += opening.relay
        topic = self.cluster.topic(opening.topic)
        name = opening.producer_name or f"auto-{len(topic.epochs)}"
        topic.epochs[name] = opening.producer_epoch or topic.epochs.get(name, 0) + 1
        yield pb.ProduceReply(opened=pb.ProducerOpened(
            producer_name=name, producer_epoch=topic.epochs[name], topic=topic.name,
            last_sequence_id=topic.last_sequence_id(name),
            max_message_size_bytes=self.cluster.max_message_bytes)).SerializeToString()
        dropped = asyncio.Event()
        self._links.add(dropped)
        try:
            async for frame in frames:
                batches = decode_batches(frame)
                if batches is None:
                    if self.cluster.lose_goodbyes:
                        raise LinkDropped
                    yield pb.ProduceReply(closed=True).SerializeToString()
                    continue
                if self.cluster.hold_receipts is not None:
                    await self.cluster.hold_receipts.wait()
                reply = pb.ProduceReply()
                for batch in batches:
                    self._publish(topic, bytes(batch), reply)
                yield reply.SerializeToString()
                if dropped.is_set():
                    raise LinkDropped
        except (LinkDropped, InvalidFrame) as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, repr(error))
        finally:
            self._links.discard(dropped)

    def _publish(self, topic: MemoryTopic, batch: bytes, reply: pb.ProduceReply) -> None:
        receipts = self.cluster.receipts
        what = receipts.popleft() if receipts else "ok"
        if what == "refuse":
            raise LinkDropped
        if what.isupper():
            header = check(batch)
            receipt = pb.Receipt(first_sequence_id=header.first_sequence_id, count=header.count)
            receipt.error.CopyFrom(pb.Error(code=pb.ErrorCode.Value(what), message="no"))
            reply.receipts.append(receipt)
            return
        receipt = topic.publish(batch)
        if what == "lose":
            raise LinkDropped
        if what == "unavailable":
            receipt.error.CopyFrom(pb.Error(code=pb.UNAVAILABLE, message="unknown"))
        if what != "skip":
            reply.receipts.append(receipt)
        if what == "twice":
            reply.receipts.append(receipt)

    async def consume(
        self, frames: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        opening = pb.ConsumeRequest.FromString(await anext(aiter(frames))).open
        self.streams_opened += 1
        self.opened_with_relay += opening.relay
        topic = self.cluster.topic(opening.topic)
        try:
            session = MemorySession(topic, opening)
        except ConsumerBusy as error:
            yield pb.ConsumeReply(error=to_error(error)).SerializeToString()
            return
        topic.sessions.append(session)
        self._sessions.add(session)

        async def listen() -> None:
            try:
                async for frame in frames:
                    session.take(pb.ConsumeRequest.FromString(frame), self)
            finally:
                session.out.put_nowait(None)

        listening = asyncio.create_task(listen())
        try:
            yield pb.ConsumeReply(opened=pb.ConsumerOpened(
                topic=topic.name, consumer_name=opening.consumer_name or "given",
            )).SerializeToString()
            subscription = session.subscription
            if subscription.kind == pb.FAILOVER and subscription.active is session:
                subscription.tell_active()
            while (frame := await session.out.get()) is not None:
                yield frame
            await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            topic.sessions.remove(session)
            self._sessions.discard(session)
            session.subscription.detach(session)
