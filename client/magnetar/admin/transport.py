"""How a call of administration reaches a broker: one message there, one back."""

from __future__ import annotations

from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from magnetar.errors import InvalidFrame
from magnetar.wire import broker_pb2
from magnetar.wire.errors import to_exception

SERVICE = "magnetar.v1.Admin"
READS = frozenset({
    "ListTenants", "GetTenant", "ListNamespaces", "GetNamespace", "GetPolicies",
    "EffectivePolicies", "ListTopics", "GetTopic", "TopicStats", "ListSubscriptions",
    "SubscriptionStats", "PeekMessages", "GetMessage", "LastMessageIds", "ListBrokers",
    "ListBookies", "WhySpace", "ListScheduled", "CountScheduled",
})
"""Calls that change nothing."""
REPEATABLE = READS | {"CancelScheduled", "MoveScheduled"}
"""Calls that end the same when they are made twice, so that they are made again when an answer
was lost."""

Reply = TypeVar("Reply", bound=Message)


class Transport(Protocol):
    """Reaches some broker."""

    async def call(self, method: str, request: Message) -> bytes:
        """The reply's bytes. Raises NotOwner when it was certainly not done, ConnectionFailed
        and OperationTimeout when that is unknown."""


async def ask(transport: Transport, method: str, request: Message, kind: type[Reply]) -> Reply:
    """The reply; raises the error it holds."""
    frame = await transport.call(method, request)
    try:
        reply = kind.FromString(frame)
    except DecodeError as error:
        raise InvalidFrame(f"not an answer to {method}: {error}") from error
    told = getattr(reply, "error", None)
    if isinstance(told, broker_pb2.Error) and reply.HasField("error"):
        raise to_exception(told)
    return reply
