"""Receive and Settle at one log: a topic that is not partitioned, or one partition."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from magnetar.acknowledgements import position_of
from magnetar.connection import Connections
from magnetar.consumer_options import ConsumerOptions
from magnetar.entry import parse_prefix
from magnetar.errors import SubscriptionNotFound
from magnetar.message import Message, ReceivedEntry
from magnetar.message_id import MessageId
from magnetar.owner_calls import OwnerCalls
from magnetar.receive_queue import opened_delivery
from magnetar.topic import TopicName
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_exception
from magnetar.wire.frames import Delivered

SLACK_S = 5.0
"""An answer may take so much longer than the wait that was asked for."""


@dataclass(slots=True)
class Settlement:
    """What is told of messages of one log."""

    acknowledge: list[MessageId] = field(default_factory=list)
    cumulative: MessageId | None = None
    negative: dict[int, list[MessageId]] = field(default_factory=dict)
    """By the delay in ms after which they are to come again."""
    reason: str = ""
    unused: list[MessageId] = field(default_factory=list)
    extend: list[MessageId] = field(default_factory=list)
    lease_ms: int = 0
    close: bool = False


class PullLog:
    """Knows its owner; asks whoever it is."""

    def __init__(
        self, connections: Connections, topic: TopicName, options: ConsumerOptions, lease_ms: int
    ) -> None:
        self._connections = connections
        self._topic = topic
        self._options = options
        self._lease_ms = lease_ms
        self._calls = OwnerCalls(connections, topic.full)
        self._pulled = False
        self.at_end = False
        """The topic is terminated, and everything is acknowledged."""

    async def receive(self, max_messages: int, max_bytes: int, wait_ms: int) -> list[Message]:
        """At most so many; see `PullConsumer.pull`."""
        opening = self._options.open_request()
        opening.topic = self._topic.full

        def request(relay: bool) -> bytes:
            opening.relay = relay
            return pb.ReceiveRequest(
                consumer=opening, max_messages=max_messages, max_bytes=max_bytes,
                wait_ms=wait_ms, lease_ms=self._lease_ms,
            ).SerializeToString()

        self._pulled = True
        return await self._calls.call(
            "Receive", request, self._received, answer_s=wait_ms / 1000 + SLACK_S,
            patience_s=self._connections.settings.operation_timeout_s)

    def _received(self, frame: bytes) -> list[Message]:
        reply = pb.ReceiveReply.FromString(frame)
        if reply.HasField("error"):
            raise to_exception(reply.error)
        self.at_end = reply.end_of_topic
        return [message for one in reply.deliveries for message in self._messages(one)]

    def _messages(self, delivery: pb.Delivery) -> Iterable[Message]:
        _, client_part = parse_prefix(memoryview(delivery.entry))
        view, meant = opened_delivery(client_part, Delivered(
            delivery.ledger_id, delivery.entry_id, delivery.entry, delivery.skip,
            delivery.redelivery_count, delivery.epoch, delivery.picked,
        ))
        entry = ReceivedEntry(
            self._topic.full, self._topic.partition, delivery.ledger_id, delivery.entry_id, view,
            meant, delivery.redelivery_count, delivery.epoch)
        return [Message(entry, index) for index in meant]

    async def settle(self, told: Settlement) -> None:
        """Returns when what is acknowledged is durable; raises what the broker says."""
        request = pb.SettleRequest(
            topic=self._topic.full, subscription=self._options.subscription_name,
            type=self._options.open_request().type, consumer_name=self._options.consumer_name,
            individual=positions_of(told.acknowledge), extend=positions_of(told.extend),
            lease_ms=told.lease_ms, close=told.close,
        )
        if (last := told.cumulative) is not None:
            request.cumulative.CopyFrom(pb.Position(
                ledger_id=last.ledger_id, entry_id=last.entry_id, batch_index=last.batch_index))
        for delay_ms, failed in told.negative.items():
            request.negative.add(
                positions=positions_of(failed), delay_ms=delay_ms, reason=told.reason)
        if told.unused:
            request.negative.add(positions=positions_of(told.unused), uncounted=True)

        def frame(relay: bool) -> bytes:
            request.relay = relay
            return request.SerializeToString()

        await self._calls.call(
            "Settle", frame, _settled, answer_s=SLACK_S,
            patience_s=self._connections.settings.operation_timeout_s)

    async def leave(self) -> None:
        """Give back what is out; a subscription that is gone by now is no error."""
        if self._pulled:
            try:
                await self.settle(Settlement(close=True))
            except SubscriptionNotFound:
                return


def positions_of(message_ids: Iterable[MessageId]) -> list[pb.Position]:
    """As the wire has them, one for each entry; a batch index below 0 is the whole entry."""
    bits: dict[tuple[int, int], int | None] = {}
    for one in message_ids:
        key = (one.ledger_id, one.entry_id)
        before = bits.get(key, 0)
        if one.batch_index < 0 or before is None:
            bits[key] = None
        else:
            bits[key] = before | 1 << one.batch_index
    return [position_of(key, mask) for key, mask in bits.items()]


def _settled(frame: bytes) -> None:
    reply = pb.SettleReply.FromString(frame)
    if reply.HasField("error"):
        raise to_exception(reply.error)
