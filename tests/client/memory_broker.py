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

from magnetar.entry import EntryView, Flag, Prefix, check, encode_prefix
from magnetar.errors import ConsumerBusy, InvalidFrame, NotSupported
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_error
from magnetar.wire.frames import Delivered, decode_batches, encode_deliveries
from magnetar.wire.options import SERVER_OPTIONS

LEDGER_ID = 7


class LinkDropped(Exception):
    """The script says that this link breaks now."""


@dataclass
class MemorySubscription:
    position: int
    epoch: int = 0
    acknowledged: dict[int, int] = field(default_factory=dict)
    deliveries: dict[int, int] = field(default_factory=dict)
    session: MemorySession | None = None


@dataclass
class MemoryTopic:
    name: str
    entries: list[bytes] = field(default_factory=list)
    sources: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    subscriptions: dict[str, MemorySubscription] = field(default_factory=dict)
    sessions: list[MemorySession] = field(default_factory=list)

    def last_sequence_id(self, producer: str) -> int:
        known = self.sources.get(producer)
        return -1 if not known else max(last for last, _ in known.values())

    def payloads(self) -> list[bytes]:
        return [payload for entry in self.entries for payload in EntryView(entry).payloads()]

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
            self.entries.append(batch)
            for session in self.sessions:
                session.pump()
        return receipt


class MemorySession:
    """One consumer's stream."""

    def __init__(self, topic: MemoryTopic, opening: pb.OpenConsumer) -> None:
        self.topic = topic
        self.out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.permits = 0
        self.corrupt_deliveries = 0
        self.redeliver: deque[tuple[int, int]] = deque()
        if opening.subscription:
            known = topic.subscriptions.get(opening.subscription)
            if known is None:
                known = MemorySubscription(self._end(opening.initial_position))
                topic.subscriptions[opening.subscription] = known
            if known.session is not None:
                raise ConsumerBusy("the subscription has its consumer")
            self.subscription = known
            known.session = self
            self.next = min(known.position, len(topic.entries))
        else:
            self.subscription = MemorySubscription(0)
            self.next = self._end(opening.initial_position)
            if opening.HasField("start"):
                whole = opening.start.batch_index < 0
                self.next = opening.start.entry_id + (whole and not opening.start_inclusive)

    def _end(self, position: int) -> int:
        return 0 if position == pb.EARLIEST else len(self.topic.entries)

    def pump(self) -> None:
        """Deliver while there are permits; an entry may overdraw them."""
        found: list[Delivered] = []
        while self.permits > 0 and (self.redeliver or self.next < len(self.topic.entries)):
            if self.redeliver:
                index, wanted = self.redeliver.popleft()
            else:
                index, wanted = self.next, -1
                self.next += 1
            count = check(self.topic.entries[index]).count
            everything = (1 << count) - 1
            skip = (self.subscription.acknowledged.get(index, 0) | ~wanted) & everything
            if skip == everything:
                continue
            self.permits -= count - skip.bit_count()
            redelivered = self.subscription.deliveries.get(index, 0)
            self.subscription.deliveries[index] = redelivered + 1
            entry = encode_prefix(Prefix(1, 1, 0)) + self.topic.entries[index]
            if self.topic.name.endswith("damaged") or self.corrupt_deliveries:
                self.corrupt_deliveries -= 1
                entry = entry[:-1] + bytes([entry[-1] ^ 1])
            bitmap = skip.to_bytes((count + 7) // 8, "little") if skip else b""
            found.append(Delivered(
                LEDGER_ID, index, entry, bitmap, redelivered, self.subscription.epoch))
        if found:
            self.out.put_nowait(encode_deliveries(found))

    def take(self, request: pb.ConsumeRequest, broker: MemoryBroker) -> None:
        reply = pb.ConsumeReply()
        for acknowledge in request.acknowledge:
            for position in acknowledge.individual:
                self._acknowledge(position)
            if acknowledge.HasField("cumulative"):
                last = acknowledge.cumulative
                for index in range(last.entry_id):
                    self.subscription.acknowledged[index] = -1
                self._acknowledge(pb.Position(
                    entry_id=last.entry_id,
                    batch_indexes=((2 << last.batch_index) - 1).to_bytes(64, "little")))
            broker.cluster.acknowledge_requests += 1
            if broker.cluster.lose_acknowledge_replies:
                broker.cluster.lose_acknowledge_replies -= 1
                raise LinkDropped
            reply.done.add(request_id=acknowledge.request_id)
        for position in request.redeliver:
            bits = int.from_bytes(position.batch_indexes, "little") or -1
            self.redeliver.append((position.entry_id, bits))
        if request.HasField("seek"):
            self._seek(request.seek)
            reply.done.add(request_id=request.seek.request_id)
            reply.epoch = self.subscription.epoch
        if request.last_message_id_request:
            end = pb.LastMessageId(request_id=request.last_message_id_request)
            end.empty = not self.topic.entries
            if self.topic.entries:
                end.position.CopyFrom(pb.Position(
                    ledger_id=LEDGER_ID, entry_id=len(self.topic.entries) - 1,
                    batch_index=check(self.topic.entries[-1]).count - 1))
            reply.last_message_id.CopyFrom(end)
        if request.unsubscribe:
            self.topic.subscriptions = {
                name: known for name, known in self.topic.subscriptions.items()
                if known is not self.subscription}
        reply.closed = request.close or request.unsubscribe
        if reply.closed and self.subscription.session is self:
            self.subscription.session = None  # free for the next before the reply says so
        if reply.ByteSize():
            self.out.put_nowait(reply.SerializeToString())
        self.permits += request.permits
        self.pump()

    def _acknowledge(self, position: pb.Position) -> None:
        bits = int.from_bytes(position.batch_indexes, "little")
        if not position.batch_indexes:
            bits = -1 if position.batch_index < 0 else 1 << position.batch_index
        known = self.subscription.acknowledged
        known[position.entry_id] = known.get(position.entry_id, 0) | bits

    def _seek(self, seek: pb.Seek) -> None:
        self.subscription.epoch += 1
        self.subscription.acknowledged.clear()
        self.redeliver.clear()
        if seek.HasField("position"):
            self.next = seek.position.entry_id
            if seek.position.batch_index > 0:
                self.subscription.acknowledged[self.next] = (1 << seek.position.batch_index) - 1
        else:
            self.next = self._end(seek.initial_position)
        self.subscription.position = self.next


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
        return self.topics.setdefault(full, MemoryTopic(full))

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
            yield pb.ConsumeReply(opened=pb.ConsumerOpened(topic=topic.name)).SerializeToString()
            while (frame := await session.out.get()) is not None:
                yield frame
            await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            topic.sessions.remove(session)
            self._sessions.discard(session)
            if session.subscription.session is session:
                session.subscription.session = None
