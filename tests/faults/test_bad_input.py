"""Bad input at every port: a clear error to who sent it, nothing lost, nobody else disturbed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bookie_client import BookieClientLimits, FramedBookieClient
from ledger.handshake import NONCE_BYTES, ClientHandshake
from ledger.wire import AddRequest, ReadRequest, Status
from magnetar import Client, InitialPosition
from magnetar.entry import Codec, encode_batch
from magnetar.entry.layout import CRC_BYTES, HEADER
from magnetar.errors import (
    ConnectionFailed,
    InvalidFrame,
    InvalidTopicName,
    MagnetarError,
    MessageTooLarge,
    Unauthorized,
)
from magnetar.ids import EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address
from magnetar.runtime.tcp import TcpNetwork
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.options import CLIENT_OPTIONS
from metadata.served import ServedStore
from tests.faults.good_stream import BOOKIE, Nodes, undisturbed

PATIENCE_S = 10.0
LEDGER = LedgerId(999)
TLS_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(500)
HTTP = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
GRPC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


async def said(address: Address, sent: bytes) -> bytes:
    """All that comes back before the other side drops the link."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(sent)
        answer = b""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(ConnectionError):
                while part := await reader.read(4096):
                    answer += part
        return answer
    finally:
        writer.close()


def framed(*bodies: bytes) -> bytes:
    return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


async def test_other_protocols_at_the_framed_ports_are_turned_away() -> None:
    garbage = random.Random(1).randbytes(4096)
    async with undisturbed() as made:
        for port in (made.port_of("bookie"), made.port_of("metadata")):
            for hello in (HTTP, GRPC):
                answer = await said(port, hello)
                assert answer.startswith(b"HTTP/1.1 400 ") and b"Magnetar" in answer
            for nonsense in (TLS_HELLO, b"\xff" + garbage, b"\xff\xff\xff\xff"):
                assert await said(port, nonsense) == b""
            for short in (b"", b"abc", b"\x00" * 40, garbage[:200]):
                answer = await said(port, framed(short))
                reason = answer.decode("utf-8", "replace")
                assert len(reason) > 30 and any(map(str.isalpha, reason)), reason


async def test_other_protocols_at_the_broker_port_are_turned_away() -> None:
    async with undisturbed() as made:
        for hello in (HTTP, TLS_HELLO, framed(b"x" * 50), random.Random(2).randbytes(4096)):
            await said(made.port_of("broker"), hello)


async def test_a_link_cut_in_the_middle_of_a_frame_leaves_nothing() -> None:
    handshake = ClientHandshake(b"k" * 32, BOOKIE, b"n" * NONCE_BYTES)
    async with undisturbed() as made:
        hello = framed(bytes(handshake.hello()))
        for kind in ("bookie", "metadata"):
            for cut in (1, 3, 4, 5, len(hello) - 1):
                address = made.port_of(kind)
                _, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(hello[:cut])
                writer.close()
                await writer.wait_closed()
        server = made.bookie.server
        assert server is not None
        async with asyncio.timeout(PATIENCE_S):
            while server.link_count > 1:  # the broker's
                await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["bookie", "metadata"])
async def test_a_client_at_a_wrong_port_is_told_which(kind: str) -> None:
    async with undisturbed() as made:
        address = made.port_of(kind)
        async with Client(
            f"magnetar://{address}", operation_timeout_seconds=0.5, connection_timeout_ms=500
        ) as lost:
            with pytest.raises(ConnectionFailed, match=str(address)):
                async with asyncio.timeout(PATIENCE_S):
                    await lost.create_producer("topic")


@pytest.mark.parametrize("kind", ["bookie", "broker"])
async def test_a_metadata_session_at_a_wrong_port_fails_in_time(kind: str) -> None:
    async with undisturbed() as made:
        with pytest.raises((ConnectionFailed, InvalidFrame)):
            async with asyncio.timeout(PATIENCE_S):
                await ServedStore.connect(
                    TcpNetwork(), made.port_of(kind), SystemClock(), session_timeout_s=0.5
                )


@asynccontextmanager
async def bookie_client(address: Address, key: bytes) -> AsyncIterator[FramedBookieClient]:
    client = FramedBookieClient(
        TcpNetwork(), lambda _: address, key, SystemClock(), random.Random(3),
        BookieClientLimits(connect_timeout_s=0.5, add_timeout_s=1.0, read_timeout_s=1.0),
    )
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("kind", ["broker", "metadata"])
async def test_a_bookie_client_at_a_wrong_port_knows_nothing(kind: str) -> None:
    add = AddRequest.make(LEDGER, EntryId(0), EntryId(-1), b"body")
    async with (
        undisturbed() as made,
        bookie_client(made.port_of(kind), made.cluster_key) as client,
    ):
        assert await client.add(BOOKIE, add) is Status.UNKNOWN
        read = ReadRequest(LEDGER, EntryId(0), 1, 100)
        assert (await client.read(BOOKIE, read)).status is Status.UNKNOWN


async def test_a_wrong_key_is_unauthorized_and_writes_nothing() -> None:
    add = AddRequest.make(LEDGER, EntryId(0), EntryId(-1), b"body")
    async with undisturbed() as made:
        async with bookie_client(made.bookie.address, b"w" * 32) as client:
            assert await client.add(BOOKIE, add) is Status.UNKNOWN
        handshake = ClientHandshake(b"w" * 32, BOOKIE, b"n" * NONCE_BYTES)
        ended: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def on_frame(frame: memoryview) -> None:
            step = handshake.receive(frame)
            if step.reply is not None:
                link.send(step.reply)
            if step.failed is not None and not ended.done():
                ended.set_result(step.failed)

        link = await TcpNetwork().connect(
            made.bookie.address, on_frame, lambda: None, timeout_s=PATIENCE_S
        )
        link.send(handshake.hello())
        async with asyncio.timeout(PATIENCE_S):
            assert isinstance(await ended, Unauthorized)
        link.close()
        async with bookie_client(made.bookie.address, made.cluster_key) as client:
            read = ReadRequest(LEDGER, EntryId(0), 1, 100)
            assert (await client.read(BOOKIE, read)).status is Status.NO_LEDGER


# -- the broker's streams -------------------------------------------------------------------------


class ProduceStream:
    """A producer that sends what it likes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call: Any = channel.stream_stream("/magnetar.v1.Broker/Produce")()

    async def send(self, frame: bytes) -> pb.ProduceReply:
        await self._call.write(frame)
        async with asyncio.timeout(PATIENCE_S):
            reply = await self._call.read()
        assert isinstance(reply, bytes), "the stream ended without a word"
        return pb.ProduceReply.FromString(reply)

    async def open(self, topic: str) -> pb.ProduceReply:
        request = pb.ProduceRequest(open=pb.OpenProducer(topic=topic, producer_name="bad"))
        return await self.send(request.SerializeToString())

    async def publish(self, *batches: bytes) -> pb.Error:
        """The error that the stream or the first receipt carries."""
        reply = await self.send(pb.ProduceRequest(batches=batches).SerializeToString())
        return reply.error if reply.HasField("error") else reply.receipts[0].error


@asynccontextmanager
async def raw(made: Nodes) -> AsyncIterator[grpc.aio.Channel]:
    address = str(made.broker.address)
    async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
        yield channel


def batch(first: int = 0, count: int = 2, body: bytes = b"body") -> bytes:
    return encode_batch("bad", first, [body] * count, publish_time_ms=1)


def sealed(entry: bytes) -> bytes:
    """With a checksum that holds."""
    return crc32c(entry[CRC_BYTES:]).to_bytes(CRC_BYTES, "little") + entry[CRC_BYTES:]


def with_header(entry: bytes, index: int, value: int) -> bytes:
    """A header field replaced, the checksum made to hold."""
    fields = list(HEADER.unpack_from(entry))
    fields[index] = value
    return sealed(HEADER.pack(*fields) + entry[HEADER.size:])


VERSION, CODEC, FLAGS, FIRST, LAST, COUNT = 1, 2, 3, 4, 5, 6
UNCOMPRESSED, STORED, PROPERTIES, NAME_BYTES = 8, 9, 10, 11

BAD_BATCHES = {
    "empty": b"",
    "short": batch()[:30],
    "cut": batch()[:-1],
    "longer": batch() + b"x",
    "damaged": batch()[:-1] + b"?",
    "newer version": with_header(batch(), VERSION, 99),
    "unknown codec": with_header(batch(), CODEC, 9),
    "unknown flags": with_header(batch(), FLAGS, 0xFFFF),
    "no messages": with_header(batch(), COUNT, 0),
    "huge count": with_header(batch(), COUNT, 0xFFFFFFFF),
    "count above sequence": with_header(batch(), COUNT, 3),
    "sequence backwards": with_header(batch(), LAST, 0),
    "bomb": with_header(with_header(batch(), CODEC, Codec.ZSTD.value), UNCOMPRESSED, 0xFFFFFFFF),
    "huge payload": with_header(batch(), STORED, 0xFFFFFFFF),
    "huge properties": with_header(batch(), PROPERTIES, 0xFFFFFFFF),
    "huge name": with_header(batch(), NAME_BYTES, 0xFFFF),
}


async def test_broken_frames_and_batches_end_their_stream_with_a_reason() -> None:
    async with undisturbed() as made, raw(made) as channel:
        for frame in (b"", b"\xff" * 9, b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x02\x00"):
            reply = await ProduceStream(channel).send(frame)
            assert (reply.error.code, bool(reply.error.message)) == (pb.INVALID_FRAME, True)
        for name, bad in BAD_BATCHES.items():
            stream = ProduceStream(channel)
            assert (await stream.open("bad")).HasField("opened")
            error = await stream.publish(bad)
            assert error.code in (pb.INVALID_FRAME, pb.CHECKSUM_MISMATCH), (name, error)
            assert error.message, name
        async with Client(made.url) as client:
            reader = await client.create_reader("bad", InitialPosition.Earliest)
            assert not await reader.has_message_available()


async def test_a_message_over_the_limit_is_refused_on_both_ways() -> None:
    async with undisturbed() as made, raw(made) as channel, Client(made.url) as client:
        stream = ProduceStream(channel)
        limit = (await stream.open("large")).opened.max_message_size_bytes
        error = await stream.publish(batch(count=1, body=bytes(limit + 1)))
        assert error.code == pb.MESSAGE_TOO_LARGE and str(limit) in error.message

        producer = await client.create_producer("large")
        with pytest.raises(MessageTooLarge):
            await producer.send(bytes(limit + 1))
        await producer.send(bytes(limit // 2))


BAD_TOPICS = [
    "", " ", "a b", "a/b", "a/b/c/d", "persistent://", "persistent://a", "persistent://a/b",
    "persistent://a/b/", "persistent:///b/c", "http://a/b/c", "a//b", "/", "///", ".", "..",
    "public/default/..", "public/../x", "x" * 256, "tab\t", "new\nline", "nul\x00", "\u2028",
    "\ud800", "persistent://public/default/a/../../b", "t\u00e9nant/default/x",
]


async def test_impossible_topic_names_are_invalid_topic_names_on_both_ways() -> None:
    async with undisturbed() as made, raw(made) as channel, Client(made.url) as client:
        for name in BAD_TOPICS:
            with pytest.raises(InvalidTopicName):
                await client.create_producer(name)
            with pytest.raises(InvalidTopicName):
                await client.subscribe(name, "s")
            if name.isprintable() or name.isascii():
                reply = await ProduceStream(channel).open(name)
                assert reply.error.code == pb.INVALID_TOPIC_NAME, name
                lookup: Any = channel.unary_unary("/magnetar.v1.Broker/Lookup")
                found = pb.LookupReply.FromString(
                    await lookup(pb.LookupRequest(topic=name).SerializeToString())
                )
                assert found.error.code == pb.INVALID_TOPIC_NAME, name


async def test_a_payload_that_cannot_be_opened_is_told_and_the_rest_is_delivered() -> None:
    """The broker does not decompress, so the consumer meets it; it must not block the topic."""
    lie = with_header(
        encode_batch("bad", 0, [b"a" * 500] * 2, publish_time_ms=1, codec=Codec.ZSTD),
        UNCOMPRESSED, 1 << 20,
    )
    async with undisturbed() as made, raw(made) as channel, Client(made.url) as client:
        consumer = await client.subscribe(
            "poisoned", "s", initial_position=InitialPosition.Earliest
        )
        stream = ProduceStream(channel)
        await stream.open("poisoned")
        error = await stream.publish(lie)
        assert not error.code, "the broker takes what adds up from outside"
        await (await client.create_producer("poisoned")).send(b"after")

        told: list[object] = []
        while not told or told[-1] != b"after":
            try:
                told.append((await consumer.receive(5_000)).data)
            except InvalidFrame as broken:
                told.append(broken)
        assert any(isinstance(one, InvalidFrame) for one in told)


# -- fuzz -----------------------------------------------------------------------------------------


def mutations(valid: bytes) -> st.SearchStrategy[bytes]:
    """Bytes near a valid frame, and far from it."""
    flips = st.lists(
        st.tuples(st.integers(0, len(valid) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )

    def flipped(changes: list[tuple[int, int]]) -> bytes:
        changed = bytearray(valid)
        for at, value in changes:
            changed[at] = value
        return bytes(changed)

    return st.one_of(
        st.binary(max_size=80), flips.map(flipped),
        st.integers(0, len(valid)).map(lambda end: valid[:end]),
    )


HELLO = bytes(ClientHandshake(b"k" * 32, BOOKIE, b"n" * NONCE_BYTES).hello())


@settings(max_examples=5)
@given(
    frames=st.lists(mutations(HELLO), min_size=10, max_size=10),
    batches=st.lists(mutations(batch()), min_size=10, max_size=10),
)
async def test_fuzzed_frames_and_batches_disturb_nobody(
    frames: list[bytes], batches: list[bytes]
) -> None:
    async with undisturbed() as made, raw(made) as channel:
        for frame in frames:
            for kind in ("bookie", "metadata"):
                address = made.port_of(kind)
                _, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(framed(frame) + frame)
                writer.close()
        for number, bad in enumerate(batches):
            stream = ProduceStream(channel)
            await stream.open(f"fuzzed-{number}")
            error = await stream.publish(bad)
            if bad != batch():
                assert error.code and error.message
