"""Links to brokers: who owns a topic, and a stream to them.

A stream carries raw frames; their coding is the caller's. Everything gRPC raises becomes one of
Magnetar's errors here, so that no other module of the SDK knows gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc

from magnetar import __version__
from magnetar.attempts import Attempts
from magnetar.errors import (
    AlreadyClosed,
    ConnectionFailed,
    InvalidArgument,
    MagnetarError,
    NotSupported,
    OperationTimeout,
    Unauthorized,
)
from magnetar.runtime.clock import Clock
from magnetar.service_url import ServiceUrl
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import RETRYABLE, to_exception
from magnetar.wire.options import CLIENT_OPTIONS

PROTOCOL_VERSION = 1
SEED_S = 2.0
"""A broker asked for an owner gets at least so long: it may have to take the topic over."""
SERVICE = "/magnetar.v1.Broker/"
PRODUCE = SERVICE + "Produce"
CONSUME = SERVICE + "Consume"
WATCH_TOPICS = SERVICE + "WatchTopics"


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Limits in seconds of what a client waits for."""

    operation_timeout_s: float = 30.0
    """For a whole call, attempts included."""
    attempt_timeout_s: float = 5.0
    """For one attempt at one broker."""
    tls_trust_certs_file_path: str | None = None


class LinkLost(ConnectionFailed):
    """The transport failed, as opposed to a broker that answered that it cannot serve now."""


def _translated(error: grpc.aio.AioRpcError, address: str) -> MagnetarError:
    code, text = error.code(), f"{address}: {error.details() or error.code().name}"
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Unauthorized(text)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotSupported(f"{text} (is this a Magnetar broker of this version?)")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return OperationTimeout(text)
    return LinkLost(text)


def _cancelled(error: asyncio.CancelledError, address: str) -> BaseException:
    """Closing a channel cancels the calls of all its users: for them the link is lost."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return error  # it is this task that is cancelled
    return LinkLost(f"{address}: the channel was closed")


class Stream:
    """One bidirectional stream of frames. Reading and writing raise ConnectionFailed at its end."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self.address = address

    async def write(self, frame: bytes) -> None:
        """Returns when the transport took the frame."""
        try:
            await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise _translated(error, self.address) from error
        except asyncio.InvalidStateError as error:
            raise LinkLost(f"{self.address}: the stream has ended") from error
        except asyncio.CancelledError as error:
            raise _cancelled(error, self.address) from None

    async def read(self) -> bytes:
        """The next frame."""
        try:
            frame = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise _translated(error, self.address) from error
        except asyncio.CancelledError as error:
            raise _cancelled(error, self.address) from None
        if not isinstance(frame, bytes):
            raise LinkLost(f"{self.address}: the broker ended the stream")
        return frame

    def close(self) -> None:
        """Drop the stream."""
        self._call.cancel()


@dataclass(frozen=True, slots=True)
class Owner:
    """Of a topic: its address, or, with `relay`, that of a broker which passes requests on.
    `via` is who said so."""

    address: str
    via: str
    relay: bool


Open = Callable[[bool], bytes]
"""The first frame of a stream; told whether the broker is to relay it."""
Opened = Callable[[bytes], bool]
"""Takes the first replies; False: the broker asks for patience, and another comes. Raises what a
reply says went wrong."""


class Connections:
    """Channels to brokers, shared by all producers and consumers of a client."""

    def __init__(
        self, url: ServiceUrl, settings: ConnectionSettings, clock: Clock, random: Random
    ) -> None:
        self._url = url
        self.settings = settings
        self.clock = clock
        self.random = random
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._next_seed = 0
        self._next_watched = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open_stream(
        self, topic: str, method: str, first_frame: Open, opened: Opened,
        deadline_s: float | None, *, unreachable: str = "", must_exist: bool = False,
        retry: tuple[type[MagnetarError], ...] = RETRYABLE,
    ) -> Stream:
        """Look the topic up and open a stream to its owner, again until it works.

        `deadline_s` is on the monotonic clock; None tries for ever, as it does from when a broker
        asks for patience. A topic that `must_exist` is not made. Raises the first error that
        another attempt cannot cure, and ConnectionFailed or OperationTimeout at the deadline.
        """
        attempts, attempt_s = self._attempts(deadline_s), self.settings.attempt_timeout_s
        while True:
            owner = via = ""
            try:
                async with asyncio.timeout(attempts.limit_s(attempt_s)):
                    via, reply = await self._look_up(topic, unreachable, must_exist)
                owner = via if reply.relay else reply.owner_address
                async with asyncio.timeout(attempts.limit_s(attempt_s)) as attempt:
                    stream = await self._open_at(owner, method, first_frame(reply.relay))
                    while not await self._told(stream, opened):
                        attempts.deadline_s = None
                        attempt.reschedule(None)
                    return stream
            except TimeoutError:
                failure: MagnetarError = self._no_answer(owner)
            except retry as error:
                failure = error
            told_before, unreachable = unreachable, ""
            if isinstance(failure, LinkLost | OperationTimeout) and owner != via:
                unreachable = owner
            if owner and isinstance(failure, LinkLost):
                self.forget(owner)
            if self._closed:
                raise failure
            # Told of an owner that cannot be reached, another broker may already serve.
            await attempts.failed(
                failure, again_at_once=bool(unreachable) and unreachable != told_before)

    async def owner_of(self, topic: str, unreachable: str = "") -> Owner:
        """Whom to ask about the topic; one attempt. Raises what a lookup raises, and
        OperationTimeout."""
        try:
            async with asyncio.timeout(self.settings.attempt_timeout_s):
                via, reply = await self._look_up(topic, unreachable)
        except TimeoutError as error:
            raise self._no_answer() from error
        if reply.partitions:
            raise InvalidArgument(f"{reply.topic} is partitioned; name one of its partitions")
        return Owner(via if reply.relay else reply.owner_address, via, reply.relay)

    async def partitions_of(
        self, topic: str, deadline_s: float, *, must_exist: bool = False
    ) -> int:
        """How many partitions the topic has; 0: it is not partitioned. One that `must_exist` is
        not made. Raises as `open_stream`."""
        attempts = self._attempts(deadline_s)
        while True:
            try:
                async with asyncio.timeout(attempts.limit_s(self.settings.attempt_timeout_s)):
                    return (await self._look_up(topic, "", must_exist))[1].partitions
            except TimeoutError:
                failure: MagnetarError = self._no_answer()
            except RETRYABLE as error:
                failure = error
            if self._closed:
                raise failure
            await attempts.failed(failure)

    async def open_watch(self, frame: bytes) -> Stream:
        """A stream of frames that answer this one, from one broker after the other: whether it
        can be reached shows by the first `read`."""
        addresses = self._url.addresses
        address = addresses[self._next_watched % len(addresses)]
        self._next_watched += 1
        try:
            async with asyncio.timeout(self.settings.attempt_timeout_s):
                channel = await self.reach(address)
            return self.answers_to(channel, address, WATCH_TOPICS, frame)
        except TimeoutError as error:
            raise self._no_answer(address) from error
        except LinkLost:
            self.forget(address)
            raise

    async def close(self) -> None:
        """Close all channels; streams on them end."""
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close()
        for task in list(self._closing):
            await task

    def _attempts(self, deadline_s: float | None) -> Attempts:
        return Attempts(self.clock, self.random, deadline_s)

    def attempts_for(self, seconds: float | None = None) -> Attempts:
        """At what may take so long, None: as any operation."""
        if seconds is None:
            seconds = self.settings.operation_timeout_s
        return self._attempts(self.clock.monotonic_s() + seconds)

    def _no_answer(self, address: str = "") -> OperationTimeout:
        return OperationTimeout(f"no answer from {address or ', '.join(self._url.addresses)}")

    async def _look_up(
        self, topic: str, unreachable: str, must_exist: bool = False
    ) -> tuple[str, pb.LookupReply]:
        """Ask one broker after the other, beginning with the last that answered."""
        request = pb.LookupRequest(
            topic=topic, unreachable_address=unreachable, must_exist=must_exist)
        failure: MagnetarError = ConnectionFailed("no broker in the service URL")
        addresses = self._url.addresses
        for offset in range(len(addresses)):
            seed = (self._next_seed + offset) % len(addresses)
            address = addresses[seed]
            if address == unreachable and len(addresses) > 1:
                continue
            try:
                frame = await self._call(address, "Lookup", request.SerializeToString())
            except (LinkLost, OperationTimeout) as error:
                if isinstance(error, LinkLost):
                    self.forget(address)
                failure = error
                continue
            self._next_seed = seed
            reply = pb.LookupReply.FromString(frame)
            if reply.HasField("error"):
                raise to_exception(reply.error)
            return address, reply
        raise failure

    @property
    def addresses(self) -> tuple[str, ...]:
        """The brokers that the service URL names."""
        return self._url.addresses

    async def _call(self, address: str, name: str, request: bytes) -> bytes:
        channel = await self.reach(address)
        return await self.call_on(channel, address, SERVICE + name, request, self._seed_s())

    def _seed_s(self) -> float:
        """With several seeds, a silent one must leave time to ask the next."""
        attempt_s = self.settings.attempt_timeout_s
        return 0.9 * max(attempt_s / len(self._url.addresses), min(attempt_s, SEED_S))

    async def call_on(
        self, channel: grpc.aio.Channel, address: str, method: str, request: bytes,
        timeout_s: float,
    ) -> bytes:
        """One call. Raises LinkLost and OperationTimeout, after which its outcome is unknown."""
        try:
            call: Any = channel.unary_unary(method)
            reply: bytes = await call(request, timeout=timeout_s)
            return reply
        except grpc.aio.AioRpcError as error:
            raise _translated(error, address) from error
        except grpc.aio.UsageError as error:
            raise LinkLost(f"{address}: the channel was closed") from error
        except asyncio.CancelledError as error:
            raise _cancelled(error, address) from None

    def answers_to(
        self, channel: grpc.aio.Channel, address: str, method: str, frame: bytes
    ) -> Stream:
        """A stream of frames that answer this one; raises LinkLost."""
        try:
            call: Any = channel.unary_stream(method)
            return Stream(call(frame), address)
        except grpc.aio.UsageError as error:
            raise LinkLost(f"{address}: the channel was closed") from error

    async def _open_at(self, address: str, method: str, frame: bytes) -> Stream:
        channel = await self.reach(address)
        try:
            stream = Stream(channel.stream_stream(method)(), address)
        except grpc.aio.UsageError as error:
            raise LinkLost(f"{address}: the channel was closed") from error
        try:
            await stream.write(frame)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _told(self, stream: Stream, opened: Opened) -> bool:
        try:
            return opened(await stream.read())
        except BaseException:
            stream.close()
            raise

    async def reach(self, address: str) -> grpc.aio.Channel:
        """A channel whose broker has said that it speaks this protocol; raises LinkLost,
        OperationTimeout, NotSupported."""
        if self._closed:
            raise AlreadyClosed("the client is closed; make a new one")
        channel = self._channels.get(address)
        if channel is not None:
            return channel
        channel = self._new_channel(address)
        try:
            request = pb.HelloRequest(
                protocol_version=PROTOCOL_VERSION, client_version=__version__)
            frame = await self.call_on(
                channel, address, SERVICE + "Hello", request.SerializeToString(), self._seed_s())
            version = pb.HelloReply.FromString(frame).protocol_version
            if version < 1:
                raise NotSupported(f"{address} speaks no protocol version known here")
        except BaseException:
            self._close_soon(channel)
            raise
        if address in self._channels:  # another task was faster
            self._close_soon(channel)
        return self._channels.setdefault(address, channel)

    def _new_channel(self, address: str) -> grpc.aio.Channel:
        if not self._url.tls:
            return grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
        path = self.settings.tls_trust_certs_file_path
        try:
            roots = Path(path).read_bytes() if path else None
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
        return grpc.aio.secure_channel(
            address, grpc.ssl_channel_credentials(roots), options=CLIENT_OPTIONS)

    def forget(self, address: str) -> None:
        """The next use of the address gets a new channel, without gRPC's own back-off."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            self._close_soon(channel)

    def _close_soon(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.get_running_loop().create_task(channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
