"""Other brokers' administration over gRPC, for what they own."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from broker.administration.limits import CALL_S, REACH_S
from broker.administration.routing import OwnerAdministration, OwnerUnreachable
from magnetar.admin.admin import Admin
from magnetar.admin.transport import SERVICE
from magnetar.errors import ConnectionFailed, OperationTimeout
from magnetar.wire.options import CLIENT_OPTIONS

MAX_CHANNELS: Final = 64
"""Links kept to other brokers; past it the one used longest ago is closed when it is idle."""


class Peers:
    """`peers(address)` is the administration of the broker there. Addresses come from the
    registered brokers, never from a client."""

    def __init__(self) -> None:
        self._channels: OrderedDict[str, _Peer] = OrderedDict()

    def __call__(self, address: str) -> OwnerAdministration:
        return Admin(_Passing(self, address))

    def peer(self, address: str) -> _Peer:
        """The link to a broker, made when it is first needed."""
        found = self._channels.get(address)
        if found is None:
            channel = grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
            found = self._channels[address] = _Peer(channel)
        self._channels.move_to_end(address)
        return found

    async def let_go(self) -> None:
        """Close what is above the limit."""
        idle = [name for name, peer in self._channels.items() if not peer.calls]
        for name in idle[: max(len(self._channels) - MAX_CHANNELS, 0)]:
            await self._channels.pop(name).channel.close()

    async def forget(self, address: str) -> None:
        """The next call gets a new link, without gRPC's own back-off."""
        found = self._channels.pop(address, None)
        if found is not None:
            await found.channel.close()

    async def close(self) -> None:
        """Close every link."""
        while self._channels:
            _, found = self._channels.popitem()
            await found.channel.close()


class _Peer:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.calls = 0


class _Passing:
    """A `Transport` to one broker, which is told not to pass the call on again."""

    def __init__(self, peers: Peers, address: str) -> None:
        self._peers = peers
        self._address = address

    async def call(self, method: str, request: Message) -> bytes:
        request.forwarded = True  # type: ignore[attr-defined]
        peer = self._peers.peer(self._address)
        peer.calls += 1
        try:
            await self._reach(peer)
            made: Any = peer.channel.unary_unary(f"/{SERVICE}/{method}")
            reply: bytes = await made(request.SerializeToString(), timeout=CALL_S)
            return reply
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise OperationTimeout(
                    f"{self._address} did not answer {method} in time; whether it was done is"
                    " unknown"
                ) from error
            await self._peers.forget(self._address)
            raise ConnectionFailed(
                f"{self._address} was lost during {method}: {error.details()}; whether it was done"
                " is unknown"
            ) from error
        finally:
            peer.calls -= 1
            await self._peers.let_go()

    async def _reach(self, peer: _Peer) -> None:
        try:
            async with asyncio.timeout(REACH_S):
                await peer.channel.channel_ready()
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            await self._peers.forget(self._address)
            raise OwnerUnreachable(f"the owner at {self._address} cannot be reached") from error
