"""Magnetar's client SDK, CLI and the ground every server room shares.

    async with magnetar.Client("magnetar://127.0.0.1:6650") as client:
        async with await client.create_producer("greetings") as producer:
            message_id = await producer.send(b"hello")

Start reading at `magnetar.client` for the SDK, at `magnetar.entry` for what a message looks
like on the wire and on disk, and at `magnetar.runtime` for the seams (time, network, disk)
through which all protocol code reaches the world. Names are imported when first used, so that
`import magnetar` costs nothing; `magnetar.sync` is the same SDK without an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magnetar.acknowledgements import Acknowledgement
    from magnetar.admin.schedule_values import ScheduleOutcome
    from magnetar.batch_receive_policy import BatchReceivePolicy
    from magnetar.client import Client
    from magnetar.consuming import Consumer
    from magnetar.dead_letter_policy import DeadLetterPolicy
    from magnetar.enums import (
        CompressionType,
        ConsumerType,
        HashingScheme,
        InitialPosition,
        PartitionsRoutingMode,
        ProducerAccessMode,
    )
    from magnetar.errors import MagnetarError
    from magnetar.interceptors import ConsumerInterceptor, ProducerInterceptor
    from magnetar.message import Message
    from magnetar.message_id import MessageId
    from magnetar.partitioned_producer import PartitionedProducer
    from magnetar.producer import Producer
    from magnetar.pull import PullConsumer
    from magnetar.reader import Reader
    from magnetar.redelivery_backoff import RedeliveryBackoff
    from magnetar.redrive import RedriveReport
    from magnetar.requests import Reply
    from magnetar.routing import OutgoingMessage
    from magnetar.scheduled_id import ScheduledId
    from magnetar.ticket import Ticket, Tickets
    from magnetar.topic import TopicName

__version__ = "0.1.0"

__all__ = [
    "Acknowledgement",
    "BatchReceivePolicy",
    "Client",
    "CompressionType",
    "Consumer",
    "ConsumerInterceptor",
    "ConsumerType",
    "DeadLetterPolicy",
    "HashingScheme",
    "InitialPosition",
    "MagnetarError",
    "Message",
    "MessageId",
    "OutgoingMessage",
    "PartitionedProducer",
    "PartitionsRoutingMode",
    "Producer",
    "ProducerAccessMode",
    "ProducerInterceptor",
    "PullConsumer",
    "Reader",
    "RedeliveryBackoff",
    "RedriveReport",
    "Reply",
    "ScheduleOutcome",
    "ScheduledId",
    "Ticket",
    "Tickets",
    "TopicName",
    "__version__",
]

_HOMES = {
    "Acknowledgement": "acknowledgements",
    "BatchReceivePolicy": "batch_receive_policy",
    "Client": "client",
    "CompressionType": "enums",
    "Consumer": "consuming",
    "ConsumerInterceptor": "interceptors",
    "ConsumerType": "enums",
    "DeadLetterPolicy": "dead_letter_policy",
    "HashingScheme": "enums",
    "InitialPosition": "enums",
    "MagnetarError": "errors",
    "Message": "message",
    "MessageId": "message_id",
    "OutgoingMessage": "routing",
    "PartitionedProducer": "partitioned_producer",
    "PartitionsRoutingMode": "enums",
    "Producer": "producer",
    "ProducerAccessMode": "enums",
    "ProducerInterceptor": "interceptors",
    "PullConsumer": "pull",
    "Reader": "reader",
    "RedeliveryBackoff": "redelivery_backoff",
    "RedriveReport": "redrive",
    "Reply": "requests",
    "ScheduleOutcome": "admin.schedule_values",
    "ScheduledId": "scheduled_id",
    "Ticket": "ticket",
    "Tickets": "ticket",
    "TopicName": "topic",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'magnetar' has no attribute {name!r}")
    value = getattr(import_module(f"magnetar.{home}"), name)
    globals()[name] = value
    return value
