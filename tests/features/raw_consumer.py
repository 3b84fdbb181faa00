"""A consumer that stays with one broker: no lookup, no reconnecting, no resending.

So what it was given, and what it was told of its acknowledgements, came from that very broker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from magnetar.entry import EntryView, parse_prefix
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.broker_pb2_grpc import BrokerStub

PERMITS = 1_000
ANSWER_LIMIT_S = 60.0
ACKNOWLEDGEMENT = 1
"""Its request id."""


class RawConsumer:
    """The only thing it may acknowledge is all it was given, once."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._given: list[pb.Delivery] = []

    async def receive(self, count: int) -> list[bytes]:
        """So many payloads, in order."""
        async with asyncio.timeout(ANSWER_LIMIT_S):
            while len(payloads := self._payloads()) < count:
                reply = await self._call.read()
                assert reply is not grpc.aio.EOF and not reply.HasField("error"), reply
                self._given += reply.deliveries
        return payloads

    def _payloads(self) -> list[bytes]:
        return [
            bytes(payload) for delivery in self._given
            for payload in EntryView(parse_prefix(delivery.entry)[1]).payloads()
        ]

    async def acknowledge_all(self) -> None:
        """Say that everything given is done; `acknowledged` tells what the broker answers."""
        individual = [
            pb.Position(ledger_id=one.ledger_id, entry_id=one.entry_id, batch_index=-1)
            for one in self._given
        ]
        asked = pb.Acknowledge(request_id=ACKNOWLEDGEMENT, individual=individual)
        await self._call.write(pb.ConsumeRequest(acknowledge=[asked]))

    async def acknowledged(self) -> bool:
        """Whether the broker took the acknowledgement; a stream that ends instead is a no."""
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                while (reply := await self._call.read()) is not grpc.aio.EOF:
                    if reply.HasField("error"):
                        return False
                    for done in reply.done:
                        return not done.HasField("error")
        except grpc.aio.AioRpcError:
            pass
        return False


@asynccontextmanager
async def raw_consumer(
    address: str, topic: str, subscription_type: pb.SubscriptionType.ValueType
) -> AsyncIterator[RawConsumer]:
    """One of the subscription `s`, from the first message on; raises AssertionError when the
    broker refuses."""
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = BrokerStub(channel).Consume()
        opening = pb.OpenConsumer(
            topic=topic, subscription="s", type=subscription_type, durable=True,
            initial_position=pb.EARLIEST)
        await call.write(pb.ConsumeRequest(open=opening))
        reply = await call.read()
        assert reply.HasField("opened"), reply
        await call.write(pb.ConsumeRequest(permits=PERMITS))
        yield RawConsumer(call)
