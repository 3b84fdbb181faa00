"""Publishes to the brokers of a world without a network: what a forwarder is to a broker's core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from broker.conversation import InitialPosition, OpenConsumer, Receipt
from broker.producer_session import ProducerSession
from magnetar.entry import parse_header
from magnetar.errors import ConnectionFailed, MagnetarError


class MemoryForwarder:
    """`brokers` gives the cores to ask, the first that serves the topic is taken.

    A test sets `failure` to have every opening fail, `failing` for some topics, clears `gate` to
    hold batches back, and sets `lose_answers` to have the outcome of stored batches unknown.
    """

    def __init__(self, brokers: Callable[[], list[object]]) -> None:
        self._brokers = brokers
        self.failure: MagnetarError | None = None
        self.failing: dict[str, MagnetarError] = {}
        self.lose_answers = False
        self.openings = 0
        self.batches: list[tuple[str, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def partitions(self, topic: str) -> int:
        for broker in self._brokers():
            found = await broker.lookup(topic)  # type: ignore[attr-defined]
            return int(found.partitions)
        raise ConnectionFailed("no broker is there")

    async def keep(self, topic: str, subscription: str) -> None:
        for broker in self._brokers():
            with suppress(MagnetarError):
                consumer = await broker.open_consumer(  # type: ignore[attr-defined]
                    OpenConsumer(topic, subscription, initial_position=InitialPosition.EARLIEST),
                    lambda _deliveries: None, lambda _error: None)
                consumer.close()

    async def open(self, topic: str, producer_name: str, *, fresh: bool) -> MemoryOutlet:
        self.openings += 1
        failure = self.failing.get(topic, self.failure)
        if failure is not None:
            raise failure
        error: MagnetarError = ConnectionFailed("no broker is there")
        for broker in self._brokers():
            outlet = MemoryOutlet(self, topic)
            try:
                outlet.session = await broker.open_producer(  # type: ignore[attr-defined]
                    topic, producer_name, 0, outlet.took, outlet.ended
                )
            except MagnetarError as failed:
                error = failed
            else:
                outlet.last_sequence_id = outlet.session.last_sequence_id
                outlet.max_batch_bytes = outlet.session.max_message_size_bytes
                return outlet
        raise error


class MemoryOutlet:
    def __init__(self, forwarder: MemoryForwarder, topic: str) -> None:
        self._forwarder = forwarder
        self._topic = topic
        self._answer: asyncio.Future[Receipt] | None = None
        self._error: MagnetarError | None = None
        self.session: ProducerSession = None  # type: ignore[assignment]
        self.last_sequence_id = -1
        self.max_batch_bytes = 0

    def took(self, receipts: list[Receipt]) -> None:
        for receipt in receipts:
            assert self._answer is not None
            if not self._answer.done():
                self._answer.set_result(receipt)

    def ended(self, error: MagnetarError) -> None:
        self._error = error
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    async def publish(self, batch: bytes) -> None:
        await self._forwarder.gate.wait()
        if self._error is not None:
            raise self._error
        self._answer = asyncio.get_running_loop().create_future()
        self.session.publish(batch)
        receipt = await self._answer
        if receipt.error is not None:
            raise receipt.error
        self._forwarder.batches.append((self._topic, batch))
        if self._forwarder.lose_answers:
            raise ConnectionFailed("the answer was lost")
        self.last_sequence_id = parse_header(batch).last_sequence_id

    def release(self) -> None:
        self.session.close()

    def discard(self) -> None:
        self.session.close()
