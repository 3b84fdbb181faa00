"""A producer that stays with one broker: no lookup, no reconnecting, no resending.

So each of its receipts was given by that very broker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from magnetar.entry import encode_batch
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.broker_pb2_grpc import BrokerStub

TURN_S: Final = 0.002
IN_FLIGHT: Final = 256


class RawProducer:
    """Sends one message a batch, numbered from 0, until stopped or until the stream ends."""

    def __init__(self, address: str, topic: str, name: str) -> None:
        self._address, self._topic, self._name = address, topic, name
        self._stopping = asyncio.Event()
        self._call: Any = None
        self._channel: Any = None
        self._sent = 0
        self.confirmed: list[int] = []

    async def open(self) -> None:
        """Open the stream; raises AssertionError when the broker refuses."""
        self._channel = grpc.aio.insecure_channel(self._address)
        self._call = BrokerStub(self._channel).Produce()
        opening = pb.OpenProducer(topic=self._topic, producer_name=self._name)
        await self._call.write(pb.ProduceRequest(open=opening))
        reply = await self._call.read()
        assert reply.HasField("opened"), reply

    async def run(self) -> None:
        """Send and take receipts; an end of the stream is an end of this, not an error."""
        taking = asyncio.create_task(self._take_receipts())
        try:
            while not self._stopping.is_set() and not taking.done():
                if self._sent - len(self.confirmed) < IN_FLIGHT:
                    payload = f"{self._name} {self._sent}".encode()
                    now_ms = time.time_ns() // 1_000_000
                    batch = encode_batch(self._name, self._sent, [payload], publish_time_ms=now_ms)
                    await self._call.write(pb.ProduceRequest(batches=[batch]))
                    self._sent += 1
                await asyncio.sleep(TURN_S)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
            await self._channel.close()

    async def _take_receipts(self) -> None:
        async for receipt in self._receipts():
            self.confirmed += range(
                receipt.first_sequence_id, receipt.first_sequence_id + receipt.count
            )

    async def _receipts(self) -> AsyncIterator[pb.Receipt]:
        """Receipts that say a batch is durable, until the stream ends."""
        while (reply := await self._call.read()) is not grpc.aio.EOF:
            for receipt in reply.receipts:
                if not receipt.HasField("error"):
                    yield receipt
            if reply.HasField("error"):
                return

    async def until_confirmed(self, count: int) -> None:
        while len(self.confirmed) < count:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stopping.set()

    def check(self, log: list[bytes]) -> None:
        """Every message this broker confirmed is in the log."""
        found = set(log)
        lost = [n for n in self.confirmed if f"{self._name} {n}".encode() not in found]
        assert not lost, f"{len(lost)} messages the old owner confirmed are missing: {lost[:10]}"
