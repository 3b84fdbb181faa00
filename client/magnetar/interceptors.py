"""What users may look at, and change, on a message's way out of and into their program.

An interceptor that raises is logged and passed over: the message goes on as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from magnetar.errors import InvalidArgument
from magnetar.message import Message
from magnetar.message_id import MessageId
from magnetar.routing import OutgoingMessage
from magnetar.scheduled_id import ScheduledId

if TYPE_CHECKING:
    from magnetar.consuming import Consumer

_log = logging.getLogger(__name__)


class ProducerInterceptor:
    """Override what you need; called in the client's loop, so it must not block."""

    def before_send(self, topic: str, message: OutgoingMessage) -> OutgoingMessage:
        """The message to send instead: `message._replace(properties=...)`, or itself."""
        return message

    def on_acknowledged(
        self, topic: str, message: OutgoingMessage, message_id: MessageId | ScheduledId | None,
        error: Exception | None,
    ) -> None:
        """The message is durable under this id, or it failed, perhaps after it was stored."""


class ConsumerInterceptor:
    """Override what you need; called in the client's loop, so it must not block."""

    def before_receive(self, consumer: Consumer, message: Message) -> Message:
        """The message to hand out instead, of a class of yours, or itself."""
        return message

    def on_acknowledge(
        self, consumer: Consumer, message: Message | MessageId, cumulative: bool
    ) -> None:
        """The user acknowledges it, or with `cumulative` everything up to it."""

    def on_negative_acknowledge(
        self, consumer: Consumer, message: Message | MessageId, reason: str
    ) -> None:
        """It failed, or was not acknowledged in time."""


Interceptor = ProducerInterceptor | ConsumerInterceptor
"""One object may be both."""


class ProducerInterceptors:
    """Several, one after the other."""

    def __init__(self, chain: Iterable[ProducerInterceptor]) -> None:
        self._chain = tuple(chain)

    def before_send(self, topic: str, message: OutgoingMessage) -> OutgoingMessage:
        """See ProducerInterceptor."""
        for one in self._chain:
            try:
                changed = one.before_send(topic, message)
            except Exception:
                _failed(one, "before_send")
                continue
            if isinstance(changed, OutgoingMessage):
                message = changed
            else:
                _log.error("%r.before_send gave %r, not an OutgoingMessage", one, changed)
        return message

    def on_acknowledged(
        self, topic: str, message: OutgoingMessage, message_id: MessageId | ScheduledId | None,
        error: Exception | None,
    ) -> None:
        """See ProducerInterceptor."""
        for one in self._chain:
            try:
                one.on_acknowledged(topic, message, message_id, error)
            except Exception:
                _failed(one, "on_acknowledged")


class ConsumerInterceptors:
    """Several, one after the other."""

    def __init__(self, chain: Iterable[ConsumerInterceptor]) -> None:
        self._chain = tuple(chain)

    def before_receive(self, consumer: Consumer, message: Message) -> Message:
        """See ConsumerInterceptor."""
        for one in self._chain:
            try:
                changed = one.before_receive(consumer, message)
            except Exception:
                _failed(one, "before_receive")
                continue
            if isinstance(changed, Message):
                message = changed
            else:
                _log.error("%r.before_receive gave %r, not a Message", one, changed)
        return message

    def on_acknowledge(
        self, consumer: Consumer, message: Message | MessageId, cumulative: bool
    ) -> None:
        """See ConsumerInterceptor."""
        for one in self._chain:
            try:
                one.on_acknowledge(consumer, message, cumulative)
            except Exception:
                _failed(one, "on_acknowledge")

    def on_negative_acknowledge(
        self, consumer: Consumer, message: Message | MessageId, reason: str
    ) -> None:
        """See ConsumerInterceptor."""
        for one in self._chain:
            try:
                one.on_negative_acknowledge(consumer, message, reason)
            except Exception:
                _failed(one, "on_negative_acknowledge")


Kind = TypeVar("Kind", ProducerInterceptor, ConsumerInterceptor)


def those_of(
    kind: type[Kind], general: Iterable[Interceptor], own: Iterable[Interceptor]
) -> tuple[Kind, ...]:
    """Those of the client and those given, as far as they are of the kind; raises
    InvalidArgument."""
    return tuple(one for one in (*general, *checked(own)) if isinstance(one, kind))


def checked(interceptors: Iterable[Interceptor]) -> tuple[Interceptor, ...]:
    """Raises InvalidArgument for what is no interceptor."""
    chain = tuple(interceptors)
    for one in chain:
        if not isinstance(one, ProducerInterceptor | ConsumerInterceptor):
            raise InvalidArgument(
                f"{one!r} is no interceptor: derive from ProducerInterceptor or"
                " ConsumerInterceptor, and give an object")
    return chain


def _failed(interceptor: object, method: str) -> None:
    _log.exception("%r.%s failed; the message goes on without it", interceptor, method)
