"""The Produce stream: frames to a ProducerSession and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from broker.broker import Broker
from broker.conversation import Receipt
from broker.producer_session import ProducerSession
from broker.stream_codec import access_of, error_of, produce_request, receipts_frame
from broker.stream_writer import Context, StreamWriter
from magnetar.errors import InvalidFrame, MagnetarError
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.frames import decode_batches

MAX_RECEIPTS_WAITING = 10_000
"""A client that does not read its receipts is not read from either."""


class ProducerStream:
    """One stream; it ends with an error frame, a `closed` frame, or the client's leaving."""

    def __init__(self, broker: Broker, context: Context) -> None:
        self._broker = broker
        self._writer = StreamWriter(context)
        self._receipts: list[Receipt] = []
        self._session: ProducerSession | None = None
        self._closing = False
        self._told = asyncio.Event()

    async def run(self, opening: pb.OpenProducer, frames: AsyncIterator[bytes]) -> None:
        """Serve until the stream ends."""
        try:
            await self._writer.run_beside(self._serve(opening, frames))
        finally:
            if self._session is not None:
                self._session.close()

    async def _serve(self, opening: pb.OpenProducer, frames: AsyncIterator[bytes]) -> None:
        try:
            self._session = session = await self._broker.open_producer(
                opening.topic, opening.producer_name, opening.producer_epoch, self._reply,
                self._end, access_of(opening, self._waiting),
            )
            opened = pb.ProducerOpened(
                producer_name=session.producer_name, producer_epoch=session.producer_epoch,
                last_sequence_id=session.last_sequence_id,
                max_message_size_bytes=session.max_message_size_bytes, topic=session.topic,
                topic_epoch=session.topic_epoch,
            )
            self._writer.put(pb.ProduceReply(opened=opened).SerializeToString())
            async for frame in frames:
                if session.congested and decode_batches(frame) is not None:
                    await session.ready()  # whoever wants to close need not wait
                if not self._take(session, frame):
                    return
                while len(self._receipts) > MAX_RECEIPTS_WAITING:
                    self._told.clear()
                    await self._told.wait()
        except MagnetarError as error:
            self._end(error)
            return
        self._writer.finish()

    def _waiting(self) -> None:
        self._writer.put(pb.ProduceReply(waiting=True).SerializeToString())

    def _take(self, session: ProducerSession, frame: bytes) -> bool:
        batches = decode_batches(frame)
        if batches is not None:
            for batch in batches:
                session.publish(batch)
            return True
        request = produce_request(frame)
        if request.HasField("open"):
            raise InvalidFrame("a stream opens one producer only")
        for other in request.batches:
            session.publish(other)
        if request.close:
            self._closing = True
            self._close_if_done()
            return False
        return True

    def _reply(self, receipts: list[Receipt]) -> None:
        if not self._receipts:
            self._writer.put_later(self._frame)
        self._receipts += receipts
        if self._closing:
            asyncio.get_running_loop().call_soon(self._close_if_done)

    def _frame(self) -> bytes:
        receipts, self._receipts = self._receipts, []
        self._told.set()
        return receipts_frame(receipts)

    def _close_if_done(self) -> None:
        session = self._session
        if session is not None and (not session.outstanding or session.closed or session.barred):
            session.close(for_good=True)  # before the client hears of it, and another one comes
            self._writer.finish(pb.ProduceReply(closed=True).SerializeToString())

    def _end(self, error: MagnetarError) -> None:
        self._writer.finish(pb.ProduceReply(error=error_of(error)).SerializeToString())
