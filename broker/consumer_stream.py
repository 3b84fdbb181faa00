"""The Consume stream: frames to a ConsumerSession and back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from broker.broker import Broker
from broker.consumer_session import ConsumerSession
from broker.conversation import ConsumerEvent, Delivery, InitialPosition
from broker.stream_codec import (
    consume_request,
    deliveries_frame,
    done_frame,
    error_of,
    event_frame,
    last_message_frame,
    open_consumer_of,
    position_of,
    positions_of,
)
from broker.stream_writer import Context, StreamWriter
from magnetar.errors import InvalidFrame, MagnetarError
from magnetar.wire import broker_pb2 as pb

MAX_PERMITS = 1 << 31


class ConsumerStream:
    """One stream; it ends with an error frame, a `closed` frame, or the client's leaving."""

    def __init__(self, broker: Broker, context: Context) -> None:
        self._broker = broker
        low_bytes = broker.settings.limits.consumer_backlog_bytes // 2
        self._writer = StreamWriter(context, self._drained, low_bytes)
        self._session: ConsumerSession | None = None
        self._early: list[ConsumerEvent] = []
        """What happened before the client knew that its consumer is open."""

    async def run(self, opening: pb.OpenConsumer, frames: AsyncIterator[bytes]) -> None:
        """Serve until the stream ends."""
        try:
            await self._writer.run_beside(self._serve(opening, frames))
        finally:
            if self._session is not None:
                self._session.close()

    async def _serve(self, opening: pb.OpenConsumer, frames: AsyncIterator[bytes]) -> None:
        try:
            self._session = session = await self._broker.open_consumer(
                open_consumer_of(opening), self._deliver, self._end,
                lambda: self._writer.pending_bytes, self._event,
            )
            opened = pb.ConsumerOpened(
                consumer_id=session.consumer_id, topic=session.topic, consumer_name=session.name
            )
            self._writer.put(pb.ConsumeReply(opened=opened).SerializeToString())
            for event in self._early:
                self._writer.put(event_frame(event))
            async for frame in frames:
                if not await self._take(session, consume_request(frame)):
                    self._writer.finish(pb.ConsumeReply(closed=True).SerializeToString())
                    return
                if self._writer.crowded:
                    await self._writer.room()
        except MagnetarError as error:
            self._end(error)
            return
        self._writer.finish()

    async def _take(self, session: ConsumerSession, request: pb.ConsumeRequest) -> bool:
        if request.HasField("open"):
            raise InvalidFrame("a stream opens one consumer only")
        if request.permits:
            session.add_permits(min(request.permits, MAX_PERMITS - session.permits))
        for asked in request.acknowledge:
            self._acknowledge(session, asked)
        if request.redeliver:
            session.redeliver(positions_of(request.redeliver))
        for negative in request.negative:
            session.negative(
                positions_of(negative.positions), negative.delay_ms, negative.reason,
                counted=not negative.uncounted,
            )
            if negative.request_id:
                self._writer.put(done_frame(negative.request_id, None))
        if request.HasField("seek"):
            await self._seek(session, request.seek)
        if request.last_message_id_request:
            await self._last_message(session, request.last_message_id_request)
        if request.unsubscribe:
            await session.unsubscribe()
            return False
        if request.close:
            session.close()
            return False
        return True

    def _acknowledge(self, session: ConsumerSession, asked: pb.Acknowledge) -> None:
        request_id = asked.request_id
        cumulative = position_of(asked.cumulative) if asked.HasField("cumulative") else None

        def done(error: MagnetarError | None) -> None:
            self._writer.put(done_frame(request_id, error))

        session.acknowledge(positions_of(asked.individual), cumulative, done)

    async def _seek(self, session: ConsumerSession, seek: pb.Seek) -> None:
        try:
            epoch = await session.seek(
                position_of(seek.position) if seek.HasField("position") else None,
                InitialPosition(min(seek.initial_position, 1)), seek.publish_time_ms,
            )
        except MagnetarError as error:
            self._writer.put(done_frame(seek.request_id, error))
        else:
            self._writer.put(done_frame(seek.request_id, None, epoch))

    async def _last_message(self, session: ConsumerSession, request_id: int) -> None:
        try:
            last = await session.last_message()
        except MagnetarError as error:
            self._writer.put(done_frame(request_id, error))
        else:
            self._writer.put(last_message_frame(request_id, last))

    def _deliver(self, deliveries: list[Delivery]) -> None:
        self._writer.put(deliveries_frame(deliveries))

    def _event(self, event: ConsumerEvent) -> None:
        if self._session is None:
            self._early.append(event)
        else:
            self._writer.put(event_frame(event))

    def _drained(self) -> None:
        if self._session is not None:
            self._session.resume()

    def _end(self, error: MagnetarError) -> None:
        self._writer.finish(pb.ConsumeReply(error=error_of(error)).SerializeToString())
