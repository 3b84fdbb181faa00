"""Producers that tell interceptors of each message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from magnetar.errors import MagnetarError, ProducerQueueFull
from magnetar.interceptors import ProducerInterceptor, ProducerInterceptors
from magnetar.partitioned_producer import PartitionedProducer
from magnetar.partitioned_tickets import PartitionedTickets
from magnetar.producer import Producer
from magnetar.routing import OutgoingMessage
from magnetar.ticket import Ticket, Tickets

if TYPE_CHECKING:
    # For the type checker only: what the class is mixed into.
    Sending = Producer
else:
    Sending = object


class Intercepting(Sending):
    """Before a producer class. Messages are sent one by one, also by `send_many`; batches encoded
    elsewhere go as they are."""

    interceptors: ProducerInterceptors

    def send(
        self,
        content: bytes,
        properties: Mapping[str, str] | None = None,
        partition_key: str | None = None,
        ordering_key: str | None = None,
        sequence_id: int | None = None,
        event_timestamp: int | None = None,
        deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
        tag: str | None = None,
        time_to_live: timedelta | float | None = None,
    ) -> Ticket:
        """See Producer."""
        message = self._changed(OutgoingMessage(
            content, properties, partition_key, ordering_key, sequence_id, tag, event_timestamp,
            deliver_at, deliver_after, time_to_live))
        return self._send(message)

    async def send_many(
        self, contents: Sequence[bytes], properties: Mapping[str, str] | None = None,
        tag: str | None = None, time_to_live: timedelta | float | None = None, *,
        partition_key: str | None = None, ordering_key: str | None = None,
        event_timestamp: int | None = None, deliver_at: int | None = None,
        deliver_after: timedelta | float | None = None,
    ) -> Tickets:
        """See Producer."""
        tickets = []
        for content in contents:
            message = self._changed(OutgoingMessage(
                content, properties, partition_key, ordering_key, tag=tag,
                event_timestamp=event_timestamp, deliver_at=deliver_at,
                deliver_after=deliver_after, time_to_live=time_to_live))
            while True:
                try:
                    tickets.append(self._send(message))
                    break
                except ProducerQueueFull:
                    await self.ready()
        return PartitionedTickets(tickets)

    def _changed(self, message: OutgoingMessage) -> OutgoingMessage:
        return self.interceptors.before_send(self.topic, message)

    def _send(self, message: OutgoingMessage) -> Ticket:
        ticket = super().send(
            message.content, message.properties, message.partition_key, message.ordering_key,
            message.sequence_id, message.event_timestamp, message.deliver_at,
            message.deliver_after, message.tag, message.time_to_live)
        ticket.add_done_callback(partial(self._settled, message))
        return ticket

    def _settled(self, message: OutgoingMessage, ticket: Ticket) -> None:
        try:
            message_id = ticket.result()
        except MagnetarError as error:
            self.interceptors.on_acknowledged(self.topic, message, None, error)
        else:
            self.interceptors.on_acknowledged(self.topic, message, message_id, None)


class InterceptedProducer(Intercepting, Producer):
    """See Producer and Intercepting."""


class InterceptedPartitionedProducer(Intercepting, PartitionedProducer):
    """See PartitionedProducer and Intercepting."""


Sender = TypeVar("Sender", Producer, PartitionedProducer)


def observed(producer: Sender, chain: Sequence[ProducerInterceptor]) -> Sender:
    """Let a producer of these classes, not yet opened, tell these interceptors."""
    if isinstance(producer, Intercepting):
        producer.interceptors = ProducerInterceptors(chain)
    return producer
