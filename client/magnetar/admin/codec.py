"""Between the values of administration and the messages of `proto/admin.proto`.

A value and its message have the same field names, so one rule reads and writes them all; a test
holds the two lists together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from google.protobuf.message import Message

from magnetar.admin.topic_values import Where
from magnetar.admin.values import PolicyValue
from magnetar.enums import ConsumerType, InitialPosition
from magnetar.errors import InvalidArgument
from magnetar.message_id import MessageId
from magnetar.scheduled_id import ScheduledId
from magnetar.wire import admin_pb2 as pb
from magnetar.wire import broker_pb2

Value = TypeVar("Value")


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    found = _HINTS.get(kind)
    if found is None:
        hints = get_type_hints(kind)
        found = _HINTS[kind] = {field.name: hints[field.name] for field in fields(kind)}
    return found


def fill(message: Any, value: Any) -> None:
    """Write a value into its message."""
    for name, hint in _hints(type(value)).items():
        found = getattr(value, name)
        if found is None:
            continue
        if get_origin(hint) is Mapping:
            target = getattr(message, name)
            for key, item in found.items():
                if get_args(hint)[1] is str:
                    target[key] = item
                else:
                    target[key].CopyFrom(policy_message(item))
        elif get_origin(hint) is tuple:
            repeated = getattr(message, name)
            for item in found:
                if isinstance(item, str | int):
                    repeated.append(item)
                else:
                    fill(repeated.add(), item)
        elif hint == PolicyValue:
            getattr(message, name).CopyFrom(policy_message(found))
        elif isinstance(found, Enum):
            setattr(message, name, broker_pb2.SubscriptionType.Value(str(found.value).upper()))
        elif isinstance(found, str | int | float | bytes):
            setattr(message, name, found)
        else:
            getattr(message, name).SetInParent()
            fill(getattr(message, name), found)


def read(kind: type[Value], message: Any) -> Value:
    """The value in a message."""
    return kind(**{
        name: _read_field(hint, message, name) for name, hint in _hints(kind).items()
    })


def _read_field(hint: Any, message: Any, name: str) -> Any:
    found = getattr(message, name)
    if hint == PolicyValue:
        return policy_of(found)
    if get_origin(hint) is UnionType and type(None) in get_args(hint):
        if not message.HasField(name):
            return None
        hint = next(one for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return tuple(found) if item in (str, int) else tuple(read(item, one) for one in found)
    if get_origin(hint) is Mapping:
        is_text = get_args(hint)[1] is str
        return {key: item if is_text else policy_of(item) for key, item in found.items()}
    if hint is ConsumerType:
        return ConsumerType(broker_pb2.SubscriptionType.Name(found).lower())
    return read(hint, found) if isinstance(found, Message) else found


def policy_message(value: PolicyValue) -> pb.PolicyValue:
    """Raises InvalidArgument for a value no policy can have."""
    if isinstance(value, bool):
        return pb.PolicyValue(flag=value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return pb.PolicyValue(number=value)
    if isinstance(value, str):
        return pb.PolicyValue(text=value)
    raise InvalidArgument(f"a policy is a whole number, true or false, or a text, not {value!r}")


def policy_of(message: pb.PolicyValue) -> PolicyValue:
    """Raises InvalidArgument when there is none."""
    match message.WhichOneof("value"):
        case "number":
            return message.number
        case "flag":
            return message.flag
        case "text":
            return message.text
        case _:
            raise InvalidArgument("a policy comes with a value")


def where_message(where: Where) -> pb.Where:
    """Raises InvalidArgument for what is no place in a topic."""
    if where == MessageId.earliest:
        return pb.Where(end=broker_pb2.EARLIEST)
    if where == MessageId.latest:
        return pb.Where(end=broker_pb2.LATEST)
    if isinstance(where, MessageId):
        return pb.Where(message_id=id_message(where))
    if isinstance(where, InitialPosition):
        earliest = where is InitialPosition.Earliest
        return pb.Where(end=broker_pb2.EARLIEST if earliest else broker_pb2.LATEST)
    if isinstance(where, int) and not isinstance(where, bool) and 0 < where < 1 << 63:
        return pb.Where(publish_time_ms=where)
    raise InvalidArgument(f"a place is a message id, an end, or a time in ms, not {where!r}")


def where_of(message: pb.Where) -> Where:
    """Raises InvalidArgument."""
    match message.WhichOneof("where"):
        case "message_id":
            return id_of(message.message_id)
        case "publish_time_ms":
            if message.publish_time_ms <= 0:
                raise InvalidArgument("a time is in milliseconds since 1970, above 0")
            return message.publish_time_ms
        case "end":
            earliest = message.end == broker_pb2.EARLIEST
            return InitialPosition.Earliest if earliest else InitialPosition.Latest
        case _:  # of a later version, perhaps: never to be taken for the end of the topic
            raise InvalidArgument("a place is a message id, an end, or a time in ms")


def id_message(message_id: MessageId | ScheduledId) -> pb.MessageIdData:
    message = pb.MessageIdData()
    try:
        fill(message, message_id)
    except ValueError as error:
        raise InvalidArgument(f"{message_id} is no message id: {error}") from error
    return message


def scheduled_id_of(message: pb.MessageIdData) -> ScheduledId:
    return read(ScheduledId, message)


def id_of(message: pb.MessageIdData) -> MessageId:
    return MessageId(
        message.partition, message.ledger_id, message.entry_id, message.batch_index
    )
