"""The framed client against a scripted bookie on a network in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

from ledger.framed_client import BookieClientLimits, FramedBookieClient
from ledger.handshake import NONCE_BYTES, HandshakeState, ServerHandshake
from ledger.wire import (
    AddRequest,
    Kind,
    ReadLacReply,
    ReadLacRequest,
    ReadReply,
    ReadRequest,
    Status,
    StoredEntry,
    decode_message,
    encode_add_reply,
    encode_read_lac_reply,
    encode_read_reply,
    peek,
)
from magnetar.errors import ConnectionFailed
from magnetar.ids import BookieId, EntryId, LedgerId
from magnetar.runtime.clock import SystemClock
from magnetar.runtime.network import Address, Buffer
from tests.ledger.cluster import until
from tests.ledger.memory_bookies import MemoryBookie

KEY, K1, LEDGER = b"k" * 32, BookieId("k1"), LedgerId(3)
HERE = Address("127.0.0.1", 7)
FAST = BookieClientLimits(
    add_timeout_s=0.03, read_timeout_s=0.03, connect_timeout_s=0.1, sweep_s=0.005,
    backoff_min_s=0.001, backoff_max_s=0.002,
)


class ScriptedBookie:
    """Both ends of the network: accepts links, shakes hands, answers as told."""

    def __init__(self, key: bytes = KEY) -> None:
        self.key = key
        self.storage = MemoryBookie()
        self.refuse = self.mute = self.coalesce = False
        self.links: list[Link] = []
        self.held: list[tuple[int, Status]] = []

    async def connect(
        self, address: Address, on_frame: Callable[[memoryview], None],
        on_closed: Callable[[], None], timeout_s: float,
    ) -> Link:
        if self.refuse:
            raise ConnectionFailed("refused")
        link = Link(self, on_frame, on_closed)
        self.links.append(link)
        return link

    async def listen(self, address: Address, accept: object) -> object:
        raise NotImplementedError

    def serve(self, frame: bytes, link: Link) -> None:
        kind, _ = peek(memoryview(frame))
        if link.handshake.state is not HandshakeState.READY:
            step = link.handshake.receive(memoryview(frame))
            if step.reply is not None:
                link.deliver(step.reply)
            if step.failed is not None:
                link.lose()
            return
        if self.mute:
            return
        request_id, message = decode_message(memoryview(frame))
        if isinstance(message, AddRequest):
            status = self.storage.add(message)
            if self.coalesce:
                self.held.append((request_id, status))
            else:
                link.deliver(encode_add_reply(request_id, status))
        elif isinstance(message, ReadRequest):
            reply = self.storage.read(message)
            link.deliver(b"".join(bytes(p) for p in encode_read_reply(request_id, reply)))
        elif isinstance(message, ReadLacRequest):
            link.deliver(encode_read_lac_reply(request_id, self.storage.read_lac(message)))
        assert kind in (Kind.ADD, Kind.READ, Kind.READ_LAC)


class Link:
    """The client's side of a link."""

    peer = "scripted"
    pending_bytes = 0

    def __init__(
        self, bookie: ScriptedBookie, on_frame: Callable[[memoryview], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._bookie, self._on_frame, self._on_closed = bookie, on_frame, on_closed
        self.handshake = ServerHandshake(bookie.key, K1, b"s" * NONCE_BYTES)
        self.closed = False

    def send(self, *parts: Buffer) -> None:
        frame = b"".join(bytes(part) for part in parts)
        if not self.closed:
            asyncio.get_running_loop().call_soon(self._bookie.serve, frame, self)

    async def drain(self) -> None: ...

    def deliver(self, frame: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._arrive, frame)

    def _arrive(self, frame: bytes) -> None:
        if not self.closed:
            self._on_frame(memoryview(frame))

    def lose(self) -> None:
        asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            self._on_closed()

    def close(self) -> None:
        self.closed = True


def client(bookie: ScriptedBookie, limits: BookieClientLimits | None = None) -> FramedBookieClient:
    return FramedBookieClient(
        bookie, lambda name: HERE if name == K1 else None,  # type: ignore[arg-type]
        KEY, SystemClock(), random.Random(1), limits,
    )


def add(entry: int, body: bytes = b"x") -> AddRequest:
    return AddRequest.make(LEDGER, EntryId(entry), EntryId(entry - 1), body)


async def test_adds_and_reads_pass_over_one_link() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie)
    statuses = await asyncio.gather(*(calls.add(K1, add(n)) for n in range(5)))
    assert statuses == [Status.OK] * 5 and len(bookie.links) == 1
    reply = await calls.read(K1, ReadRequest(LEDGER, EntryId(1), 3, 100))
    assert [entry.entry_id for entry in reply.entries] == [1, 2, 3]
    lac = await calls.read_lac(K1, ReadLacRequest(LEDGER, fence=True))
    assert lac == ReadLacReply(Status.OK, EntryId(3), EntryId(4))
    assert await calls.add(K1, add(5)) is Status.FENCED
    await calls.close()


async def test_one_reply_answers_a_range_of_adds_in_order() -> None:
    bookie = ScriptedBookie()
    bookie.coalesce = True
    calls = client(bookie)
    answered: list[int] = []

    def note(number: int, status: Status) -> None:
        answered.append(number)

    for number in range(4):
        calls.add_nowait(K1, add(number), partial(note, number))
    await until(lambda: len(bookie.held) == 4)
    bookie.links[0].deliver(encode_add_reply(bookie.held[0][0], Status.OK, 4))
    await until(lambda: len(answered) == 4)
    assert answered == [0, 1, 2, 3]
    await calls.close()


async def test_no_address_no_link_and_a_refused_link_are_unknown() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie)
    assert await calls.add(BookieId("nobody"), add(0)) is Status.UNKNOWN
    bookie.refuse = True
    assert await calls.add(K1, add(0)) is Status.UNKNOWN
    assert (await calls.read(K1, ReadRequest(LEDGER, EntryId(0), 1, 1))) == ReadReply(
        Status.UNKNOWN
    )
    await calls.close()


async def test_a_wrong_key_is_unknown_and_stores_nothing() -> None:
    bookie = ScriptedBookie(key=b"o" * 32)
    calls = client(bookie)
    assert await calls.add(K1, add(0)) is Status.UNKNOWN
    assert bookie.storage.ledgers == {}
    await calls.close()


async def test_silence_is_unknown_after_the_deadline() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie, FAST)
    assert await calls.add(K1, add(0)) is Status.OK
    bookie.mute = True
    status, lac = await asyncio.gather(
        calls.add(K1, add(1)), calls.read_lac(K1, ReadLacRequest(LEDGER))
    )
    assert status is Status.UNKNOWN and lac == ReadLacReply(Status.UNKNOWN)
    await until(lambda: bookie.links[0].closed)
    await calls.close()


async def test_a_lost_link_answers_all_and_is_opened_again() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie, FAST)
    assert await calls.add(K1, add(0)) is Status.OK
    bookie.mute = True
    pending = [asyncio.ensure_future(calls.add(K1, add(n))) for n in (1, 2)]
    await asyncio.sleep(0)
    bookie.links[0].lose()
    assert await asyncio.gather(*pending) == [Status.UNKNOWN] * 2
    bookie.mute = False
    async with asyncio.timeout(5):
        while await calls.add(K1, add(1)) is not Status.OK:
            await asyncio.sleep(0)
    assert len(bookie.links) == 2
    await calls.close()


async def test_a_rotten_entry_is_unknown_and_ends_a_range() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie)
    for number in range(3):
        await calls.add(K1, add(number))
    entries = bookie.storage.ledgers[LEDGER].entries
    rotten = entries[1]
    entries[1] = StoredEntry(rotten.entry_id, rotten.last_add_confirmed, b"y", rotten.digest)
    whole = await calls.read(K1, ReadRequest(LEDGER, EntryId(0), 3, 100))
    assert [entry.entry_id for entry in whole.entries] == [0]
    assert await calls.read(K1, ReadRequest(LEDGER, EntryId(1), 2, 100)) == ReadReply(
        Status.UNKNOWN
    )
    await calls.close()


async def test_nonsense_drops_the_link() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie)
    await calls.add(K1, add(0))
    bookie.mute = True
    pending = asyncio.ensure_future(calls.add(K1, add(1)))
    await asyncio.sleep(0)
    bookie.links[0].deliver(b"\xff" * 20)
    assert await pending is Status.UNKNOWN and bookie.links[0].closed
    await calls.close()


async def test_a_closed_client_knows_nothing() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie)
    bookie.mute = True
    pending = asyncio.ensure_future(calls.add(K1, add(0)))
    await asyncio.sleep(0)
    await calls.close()
    assert await pending is Status.UNKNOWN
    assert await calls.add(K1, add(0)) is Status.UNKNOWN


async def test_back_pressure_refuses_instead_of_growing() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie, BookieClientLimits(max_early_bytes=10))
    statuses = await asyncio.gather(
        calls.add(K1, add(0, b"0123456789")), calls.add(K1, add(1, b"0123456789"))
    )
    assert [*statuses] == [Status.OK, Status.OVERLOADED]
    await calls.close()


async def test_a_link_lost_in_the_turn_of_its_welcome_is_a_lost_link() -> None:
    bookie = ScriptedBookie()
    calls = client(bookie, FAST)
    first = asyncio.ensure_future(calls.add(K1, add(0)))
    await until(lambda: bool(bookie.links))
    link = bookie.links[0]
    arrive = link._arrive

    def arrive_and_lose(frame: bytes) -> None:
        arrive(frame)
        if link.handshake.state is HandshakeState.READY:
            link._end()

    link._arrive = arrive_and_lose  # type: ignore[method-assign]
    assert await first is Status.UNKNOWN
    (connecting,) = (one._task for one in calls._links.values())
    assert connecting is not None
    await connecting
    await calls.close()
