"""Receive and Settle: one request, one answer."""

from __future__ import annotations

import logging
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from broker.broker import Broker
from broker.conversation import Delivery, MessagePosition
from broker.pull_session import PullRequest
from broker.pull_sessions import Failed, Settlement
from broker.relay import Relay
from broker.stream_codec import error_of, open_consumer_of, position_of, positions_of
from broker.stream_writer import Context
from magnetar.errors import InvalidFrame, MagnetarError
from magnetar.wire import broker_pb2 as pb

RELAY_SLACK_S = 5.0
"""A relayed call may take so much longer than its wait."""

Request = TypeVar("Request", bound=Message)

_log = logging.getLogger(__name__)


class PullService:
    """Handlers over one Broker."""

    def __init__(self, broker: Broker, relay: Relay) -> None:
        self._broker = broker
        self._relay = relay

    async def receive(self, frame: bytes, context: Context) -> bytes:
        """See ReceiveRequest. A call that is cancelled has received nothing."""
        try:
            request = _parsed(pb.ReceiveRequest, frame)
            opening = request.consumer
            if opening.relay:
                owner = await self._broker.owner_address(opening.topic)
                opening.relay = False
                if owner is not None:
                    return await self._relay.call(
                        owner, "Receive", request.SerializeToString(),
                        request.wait_ms / 1000 + RELAY_SLACK_S)
            return await self._receive(request, context)
        except Exception as error:
            _note(error)
            return pb.ReceiveReply(error=error_of(error)).SerializeToString()

    async def _receive(self, request: pb.ReceiveRequest, context: Context) -> bytes:
        opening = open_consumer_of(request.consumer)
        topic = await self._broker.topic_here(opening.topic)
        answer = await topic.pulls.receive(opening, PullRequest(
            request.max_messages, request.max_bytes, request.wait_ms / 1000,
            request.lease_ms / 1000,
        ))
        if context.cancelled():
            answer.unanswered()
        return pb.ReceiveReply(
            deliveries=map(_delivery, answer.deliveries), consumer_name=opening.consumer_name,
            end_of_topic=answer.end_of_topic,
        ).SerializeToString()

    async def settle(self, frame: bytes, _context: Context) -> bytes:
        """See SettleRequest."""
        try:
            request = _parsed(pb.SettleRequest, frame)
            if request.relay:
                owner = await self._broker.owner_address(request.topic)
                request.relay = False
                if owner is not None:
                    return await self._relay.call(
                        owner, "Settle", request.SerializeToString(), RELAY_SLACK_S)
            topic = await self._broker.topic_here(request.topic)
            await topic.pulls.settle(_settlement(request))
        except Exception as error:
            _note(error)
            return pb.SettleReply(error=error_of(error)).SerializeToString()
        return pb.SettleReply().SerializeToString()


def _settlement(request: pb.SettleRequest) -> Settlement:
    negative: list[Failed] = []
    unused: list[MessagePosition] = []
    for given in request.negative:
        if given.uncounted:
            unused += positions_of(given.positions)
        else:
            negative.append(Failed(
                positions_of(given.positions), given.delay_ms, given.reason))
    return Settlement(
        request.subscription, request.consumer_name, positions_of(request.individual),
        position_of(request.cumulative) if request.HasField("cumulative") else None,
        negative, unused, positions_of(request.extend), request.lease_ms / 1000, request.close,
    )


def _delivery(delivery: Delivery) -> pb.Delivery:
    return pb.Delivery(
        ledger_id=delivery.ledger_id, entry_id=delivery.entry_id, entry=delivery.entry,
        skip=delivery.skip, redelivery_count=delivery.redelivery_count, epoch=delivery.epoch,
        picked=delivery.picked,
    )


def _parsed(kind: type[Request], frame: bytes) -> Request:
    message = kind()
    try:
        message.ParseFromString(frame)
    except DecodeError as error:
        raise InvalidFrame(f"not a {kind.__name__}: {error}") from error
    return message


def _note(error: Exception) -> None:
    if not isinstance(error, MagnetarError):
        _log.exception("a pull failed")
