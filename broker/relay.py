"""Passes a client's stream on to the topic's owner, byte for byte.

The target comes from the topic's record and the registered brokers, never from the client, so
that a relay opens no connection a client could choose.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from broker.stream_writer import Context
from magnetar.errors import ConnectionFailed
from magnetar.runtime.network import Address
from magnetar.wire.options import CLIENT_OPTIONS

SERVICE = "magnetar.v1.Broker"


class Relay:
    """Bounded in the number of streams."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.streams = 0

    async def run(
        self, owner: Address, method: str, first: bytes, frames: AsyncIterator[bytes],
        context: Context,
    ) -> None:
        """Pass `first`, then all frames both ways, until either side ends.

        Raises ConnectionFailed when the owner cannot be reached or is lost."""
        async with self._channel(owner) as channel:
            call: Any = channel.stream_stream(f"/{SERVICE}/{method}")()
            await call.write(first)
            forth = asyncio.ensure_future(_forth(call, frames))
            try:
                while (frame := await call.read()) is not grpc.aio.EOF:
                    await context.write(frame)
            finally:
                forth.cancel()
                await asyncio.gather(forth, return_exceptions=True)
                call.cancel()

    async def stream(
        self, owner: Address, method: str, request: bytes, context: Context
    ) -> None:
        """Pass one request on, and all its answers back; raises ConnectionFailed as `run`."""
        async with self._channel(owner) as channel:
            begin: Any = channel.unary_stream(f"/{SERVICE}/{method}")
            call = begin(request)
            try:
                while (frame := await call.read()) is not grpc.aio.EOF:
                    await context.write(frame)
            finally:
                call.cancel()

    @asynccontextmanager
    async def _channel(self, owner: Address) -> AsyncIterator[grpc.aio.Channel]:
        if self.streams >= self._limit:
            raise ConnectionFailed("this broker relays all the streams it may; try another")
        self.streams += 1
        try:
            async with grpc.aio.insecure_channel(str(owner), options=CLIENT_OPTIONS) as channel:
                yield channel
        except grpc.aio.AioRpcError as error:
            raise ConnectionFailed(
                f"the relay to {owner} was lost: {error.details()}; look the topic up again"
            ) from error
        finally:
            self.streams -= 1

    async def call(self, owner: Address, method: str, request: bytes, timeout_s: float) -> bytes:
        """Pass one request on, and its answer back; raises ConnectionFailed as `run`."""
        async with self._channel(owner) as channel:
            call: Any = channel.unary_unary(f"/{SERVICE}/{method}")
            reply: bytes = await call(request, timeout=timeout_s)
            return reply


async def _forth(call: Any, frames: AsyncIterator[bytes]) -> None:
    async for frame in frames:
        await call.write(frame)
    await call.done_writing()
