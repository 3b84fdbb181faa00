"""The Redrive call: one run at the owner of the dead-letter topic, told about as it goes."""

from __future__ import annotations

import asyncio
import logging

from google.protobuf.message import DecodeError

from broker.broker import Broker
from broker.redrive import PATIENCE_S, Redrive, RedriveProgress, RedriveRequest
from broker.relay import Relay
from broker.selector import parse_filter
from broker.stream_codec import error_of
from broker.stream_writer import Context
from magnetar.dead_letter import REDRIVE
from magnetar.errors import ConsumerBusy, InvalidFrame, MagnetarError
from magnetar.runtime.clock import Clock
from magnetar.wire import broker_pb2 as pb

MOST_RUNS = 64
"""At a time, on one broker."""

_log = logging.getLogger(__name__)


class RedriveService:
    """A handler over one Broker."""

    def __init__(self, broker: Broker, relay: Relay) -> None:
        self._broker = broker
        self._relay = relay
        self._runs = 0

    async def redrive(self, frame: bytes, context: Context) -> None:
        """See RedriveRequest. Ends with a reply that says `done`, or with an error."""
        if self._runs >= MOST_RUNS:
            await _fail(context, ConsumerBusy("this broker redrives all that it may; try later"))
            return
        self._runs += 1
        try:
            request = _parsed(frame)
            owner = None
            if request.relay:
                owner = await self._broker.owner_address(request.topic)
                request.relay = False
            if owner is not None:
                await self._relay.stream(owner, "Redrive", request.SerializeToString(), context)
            else:
                await self._run(request, context)
        except Exception as error:
            if not isinstance(error, MagnetarError):
                _log.exception("a redrive failed")
            await _fail(context, error)
        finally:
            self._runs -= 1

    async def _run(self, request: pb.RedriveRequest, context: Context) -> None:
        topic = await self._broker.topic_here(request.topic)
        news = asyncio.Event()
        newest = RedriveProgress()

        def told(progress: RedriveProgress) -> None:
            nonlocal newest
            newest = progress
            news.set()

        run = Redrive(topic, _request_of(request, topic.name), self._clock, told)
        working = asyncio.get_running_loop().create_task(run.run(), name="redrive")
        working.add_done_callback(lambda _task: news.set())
        try:
            while not working.done():
                await news.wait()
                news.clear()
                if not working.done():
                    await context.write(_reply(newest))
            await context.write(_reply(run.progress))
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    @property
    def _clock(self) -> Clock:
        return self._broker.lanes.clock


def _request_of(request: pb.RedriveRequest, topic: str) -> RedriveRequest:
    return RedriveRequest(
        topic, request.subscription or REDRIVE, request.to,
        parse_filter(request.tags, request.filter), request.max_messages,
        request.patience_ms / 1000 or PATIENCE_S,
    )


def _reply(progress: RedriveProgress) -> bytes:
    return pb.RedriveReply(
        moved=progress.moved, unwanted=progress.unwanted,
        without_target=progress.without_target, refused=progress.refused,
        problem=progress.problem, targets=progress.targets, done=progress.done,
    ).SerializeToString()


def _parsed(frame: bytes) -> pb.RedriveRequest:
    try:
        return pb.RedriveRequest.FromString(frame)
    except DecodeError as error:
        raise InvalidFrame(f"not a RedriveRequest: {error}") from error


async def _fail(context: Context, error: BaseException) -> None:
    await context.write(pb.RedriveReply(error=error_of(error)).SerializeToString())
