"""Watching topics as a client does, with a broker that misbehaves on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import grpc
import pytest

from magnetar.connection import Connections, ConnectionSettings
from magnetar.errors import InvalidArgument, MagnetarError, NotSupported
from magnetar.runtime.clock import SystemClock
from magnetar.service_url import ServiceUrl
from magnetar.topic import TopicName
from magnetar.topic_watch import TopicWatches
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_error
from magnetar.wire.options import SERVER_OPTIONS
from tests.broker.world import until


class WatchedBroker:
    """Answers WatchTopics with what a test says, stream by stream."""

    def __init__(self) -> None:
        self.requests: list[pb.WatchTopicsRequest] = []
        self.answers: list[asyncio.Queue[pb.WatchTopicsReply | None]] = []
        self.open_streams = 0

    async def hello(self, _frame: bytes, _context: Any) -> bytes:
        return pb.HelloReply(protocol_version=1).SerializeToString()

    async def watch(self, frame: bytes, context: Any) -> None:
        self.requests.append(pb.WatchTopicsRequest.FromString(frame))
        answers: asyncio.Queue[pb.WatchTopicsReply | None] = asyncio.Queue()
        self.answers.append(answers)
        self.open_streams += 1
        try:
            while (reply := await answers.get()) is not None:
                await context.write(reply.SerializeToString())
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going")
        finally:
            self.open_streams -= 1

    def tell(self, **partitions: int) -> None:
        self.answers[-1].put_nowait(pb.WatchTopicsReply(topics=[
            pb.WatchedTopic(name=TopicName.parse(name).full, partitions=count)
            for name, count in partitions.items()
        ]))


@asynccontextmanager
async def watched(supported: bool = True) -> AsyncIterator[tuple[WatchedBroker, TopicWatches]]:
    broker = WatchedBroker()
    methods: dict[str, Any] = {"Hello": grpc.unary_unary_rpc_method_handler(broker.hello)}
    if supported:
        methods["WatchTopics"] = grpc.unary_stream_rpc_method_handler(broker.watch)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((
        grpc.method_handlers_generic_handler("magnetar.v1.Broker", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connections = Connections(
        ServiceUrl.parse(f"magnetar://127.0.0.1:{port}"), ConnectionSettings(), SystemClock(),
        Random(1))
    watches = TopicWatches(connections)
    try:
        yield broker, watches
    finally:
        await watches.close()
        await connections.close()
        await server.stop(None)


A, B = TopicName.parse("a"), TopicName.parse("b")


async def test_names_share_a_stream_that_is_asked_anew_for_more() -> None:
    async with watched() as (broker, watches):
        seen: list[tuple[str, int | None]] = []
        watches.by_name(A, lambda count: seen.append(("a", count)))
        await until(lambda: len(broker.requests) == 1)
        broker.tell(a=2)
        await until(lambda: seen == [("a", 2)])

        cancel = watches.by_name(B, lambda count: seen.append(("b", count)))
        await until(lambda: len(broker.requests) == 2)
        broker.tell(a=3)

        await until(lambda: sorted(seen[1:]) == [("a", 3), ("b", None)])
        assert list(broker.requests[1].topics) == [A.full, B.full]
        assert broker.open_streams == 1
        cancel()
        broker.tell(a=4, b=1)
        await until(lambda: seen[3:] == [("a", 4)])


async def test_what_a_stream_was_not_asked_for_is_not_taken_for_deleted() -> None:
    async with watched() as (broker, watches):
        seen: list[int | None] = []
        watches.by_name(A, lambda _: None)
        await until(lambda: len(broker.requests) == 1)

        watches.by_name(B, seen.append)
        broker.tell(a=1)
        await until(lambda: len(broker.requests) == 2)

        assert seen == []


async def test_a_lost_stream_is_replaced_and_tells_all_again() -> None:
    async with watched() as (broker, watches):
        told: list[dict[str, int]] = []
        watches.by_pattern("public/default", "x", told.append, lambda _: None)
        await until(lambda: len(broker.requests) == 1)
        broker.tell(a=1)
        await until(lambda: len(told) == 1)

        broker.answers[0].put_nowait(None)
        await until(lambda: len(broker.requests) == 2)
        broker.tell(b=0)

        await until(lambda: told == [{A.full: 1}, {B.full: 0}])


async def test_an_error_that_may_pass_is_tried_again_another_is_told() -> None:
    async with watched() as (broker, watches):
        failed: list[MagnetarError] = []
        watches.by_pattern("public/default", "x", lambda _: None, failed.append)
        await until(lambda: len(broker.requests) == 1)
        broker.answers[-1].put_nowait(pb.WatchTopicsReply(
            error=pb.Error(code=pb.UNAVAILABLE, message="leaving")))
        await until(lambda: len(broker.requests) == 2)
        assert not failed

        broker.answers[-1].put_nowait(
            pb.WatchTopicsReply(error=to_error(InvalidArgument("no such pattern"))))

        await until(lambda: len(failed) == 1)
        assert isinstance(failed[0], InvalidArgument)


async def test_nothing_is_left_of_what_nobody_watches() -> None:
    async with watched() as (broker, watches):
        cancels = [watches.by_name(A, lambda _: None), watches.by_name(A, lambda _: None)]
        cancels.append(watches.by_pattern("public/default", "x", lambda _: None, print))
        await until(lambda: broker.open_streams == 2)

        for cancel in (*cancels, *cancels):
            cancel()

        await until(lambda: broker.open_streams == 0)
        watches.by_name(A, lambda _: None)
        await until(lambda: broker.open_streams == 1)


async def test_a_broker_that_cannot_tell_is_asked_once_a_need(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watched(supported=False) as (_broker, watches):
        failed: list[MagnetarError] = []
        watches.by_name(A, lambda _: None)
        watches.by_pattern("public/default", "x", lambda _: None, failed.append)

        await until(lambda: len(failed) == 1 and bool(caplog.records))

        assert isinstance(failed[0], NotSupported)
        assert "are not watched" in caplog.text
