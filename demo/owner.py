"""Which broker serves a topic, asked the way clients ask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc

from magnetar.errors import ConnectionFailed, MagnetarError
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.broker_pb2_grpc import BrokerStub
from magnetar.wire.errors import to_exception

LOOKUP_LIMIT_S: Final = 10.0


async def owner_address(addresses: Iterable[str], topic: str) -> str:
    """`host:port` of the owner, from the first broker that answers; raises MagnetarError.

    A topic that nobody serves yet gets its owner by the question.
    """
    failure: MagnetarError = ConnectionFailed("no broker was given to ask")
    for address in addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            request = pb.LookupRequest(topic=topic)
            try:
                reply: pb.LookupReply = await BrokerStub(channel).Lookup(
                    request, timeout=LOOKUP_LIMIT_S
                )
            except grpc.aio.AioRpcError as error:
                failure = ConnectionFailed(f"{address}: {error.code().name}: {error.details()}")
                continue
        if not reply.HasField("error"):
            return reply.owner_address
        failure = to_exception(reply.error)
    raise failure
