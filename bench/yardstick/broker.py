"""The broker: entries go to three bookies, and to the consumer once two have them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from bench.yardstick.wire import CHANNEL_OPTIONS, DELIVERY_BYTES, FRAME, LINK_BUFFER_BYTES, check

METHOD_PRODUCE = "/yardstick/produce"
METHOD_CONSUME = "/yardstick/consume"


class Link(asyncio.Protocol):
    """The connection to one bookie."""

    transport: asyncio.Transport

    def __init__(self, broker: Broker, number: int) -> None:
        self._broker, self._number, self._rest = broker, number, b""
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: with uvloop the transport is of its own kind.
        self.transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(LINK_BUFFER_BYTES)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) // 8 * 8
        if whole:
            self._broker.synced(self._number, int.from_bytes(data[whole - 8 : whole], "big"))
        self._rest = data[whole:]


class Broker:
    """Entry ids run on for ever; the tail is kept only while somebody consumes."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._synced_to: list[int] = []
        self._next_id, self._confirmed, self._consumers = 0, -1, 0
        self._tail: dict[int, bytes] = {}
        self._waiting: list[asyncio.Event] = []

    async def connect(self, ports: list[int]) -> None:
        loop = asyncio.get_running_loop()
        for number, port in enumerate(ports):
            _, link = await loop.create_connection(
                lambda number=number: Link(self, number), "127.0.0.1", port  # type: ignore[misc]
            )
            self._links.append(link)
            self._synced_to.append(-1)

    def synced(self, bookie: int, entry_id: int) -> None:
        self._synced_to[bookie] = entry_id
        confirmed = sorted(self._synced_to)[1]
        if confirmed > self._confirmed:
            self._confirmed = confirmed
            for event in self._waiting:
                event.set()

    async def produce(self, frames: AsyncIterator[bytes], context: Any) -> None:
        moved, base = asyncio.Event(), self._next_id
        self._waiting.append(moved)
        confirming = asyncio.create_task(self._confirm(context, moved, base))
        async for entry in frames:
            check(entry)
            head = FRAME.pack(len(entry), self._next_id)
            if self._consumers:
                self._tail[self._next_id] = entry
            self._next_id += 1
            for link in self._links:
                link.transport.writelines((head, entry))
            for link in self._links:
                if not link.writable.is_set():
                    await link.writable.wait()
        confirming.cancel()
        self._waiting.remove(moved)

    async def _confirm(self, context: Any, moved: asyncio.Event, base: int) -> None:
        told = base - 1
        while True:
            await moved.wait()
            moved.clear()
            if self._confirmed > told:
                told = self._confirmed
                await context.write((told - base).to_bytes(8, "big"))

    async def consume(self, frames: AsyncIterator[bytes], context: Any) -> None:
        moved, position = asyncio.Event(), self._next_id
        self._waiting.append(moved)
        self._consumers += 1
        await context.write(b"")
        while True:
            while position > self._confirmed:
                await moved.wait()
                moved.clear()
            parts: list[bytes] = []
            size = 0
            while position <= self._confirmed and size < DELIVERY_BYTES:
                entry = self._tail.pop(position)
                parts += (len(entry).to_bytes(4, "big"), entry)
                size += len(entry)
                position += 1
            await context.write(b"".join(parts))


async def serve(port: int, bookie_ports: list[int]) -> grpc.aio.Server:
    """Listen on loopback, writing to the bookies at `bookie_ports`."""
    broker = Broker()
    await broker.connect(bookie_ports)
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    handlers: dict[str, Any] = {
        "produce": grpc.stream_stream_rpc_method_handler(broker.produce),
        "consume": grpc.stream_stream_rpc_method_handler(broker.consume),
    }
    handler = grpc.method_handlers_generic_handler("yardstick", handlers)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server
