"""Between protobuf frames and the broker's own types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from google.protobuf.message import DecodeError

from broker.conversation import (
    Access,
    AccessMode,
    ChecksumMismatch,
    ConsumerEvent,
    Delivery,
    HoldFailedKeys,
    InitialPosition,
    MessagePosition,
    OpenConsumer,
    Receipt,
)
from broker.selector import parse_filter
from broker.state_records import SubscriptionKind
from magnetar.errors import InvalidFrame, MagnetarError, NotSupported
from magnetar.wire import broker_pb2 as pb
from magnetar.wire.errors import to_error
from magnetar.wire.frames import Delivered, encode_deliveries

MAX_INDEX_BITMAP_BYTES = 1 << 17


def error_of(error: BaseException) -> pb.Error:
    """What the client is told."""
    if isinstance(error, ChecksumMismatch):
        return pb.Error(code=pb.CHECKSUM_MISMATCH, message=str(error))
    return to_error(error)


def produce_request(frame: bytes) -> pb.ProduceRequest:
    """Raises InvalidFrame."""
    try:
        return pb.ProduceRequest.FromString(frame)
    except DecodeError as error:
        raise InvalidFrame(f"not a ProduceRequest: {error}") from error


def access_of(opening: pb.OpenProducer, waiting: Callable[[], None]) -> Access:
    """Raises NotSupported for a mode of a later version."""
    try:
        mode = AccessMode(opening.access_mode)
    except ValueError as error:
        raise NotSupported(
            f"access mode {opening.access_mode} is not known to this broker"
        ) from error
    return Access(mode, opening.topic_epoch, waiting)


def consume_request(frame: bytes) -> pb.ConsumeRequest:
    """Raises InvalidFrame."""
    try:
        return pb.ConsumeRequest.FromString(frame)
    except DecodeError as error:
        raise InvalidFrame(f"not a ConsumeRequest: {error}") from error


def position_of(position: pb.Position) -> MessagePosition:
    """Raises InvalidFrame for a bitmap larger than any entry could need."""
    indexes = position.batch_indexes
    if len(indexes) > MAX_INDEX_BITMAP_BYTES:
        raise InvalidFrame(f"a bitmap of {len(indexes)} bytes over the messages of one entry")
    return MessagePosition(
        position.ledger_id, position.entry_id, position.batch_index,
        int.from_bytes(indexes, "little") if indexes else 0,
    )


def positions_of(positions: Sequence[pb.Position]) -> list[MessagePosition]:
    """As `position_of`, of many."""
    return [position_of(position) for position in positions]


def open_consumer_of(request: pb.OpenConsumer) -> OpenConsumer:
    """Raises InvalidFrame for types this version does not know, FilterSyntaxError."""
    try:
        kind = SubscriptionKind(request.type)
        initial = InitialPosition(request.initial_position)
        hold = HoldFailedKeys(request.hold_failed_keys)
    except ValueError as error:
        raise InvalidFrame(
            f"unknown kind of subscription, position or holding: {error}"
        ) from error
    start = position_of(request.start) if request.HasField("start") else None
    return OpenConsumer(
        request.topic, request.subscription, kind, initial, request.durable,
        request.consumer_name, start, request.start_inclusive,
        parse_filter(request.tags, request.filter), hold_failed_keys=hold,
        max_deliveries=request.max_deliveries, dead_letter_topic=request.dead_letter_topic,
        must_exist=request.must_exist,
    )


def receipts_frame(receipts: Sequence[Receipt]) -> bytes:
    """A ProduceReply with these receipts."""
    reply = pb.ProduceReply()
    add = reply.receipts.add
    for receipt in receipts:
        told = add(
            first_sequence_id=receipt.first_sequence_id, count=receipt.count,
            ledger_id=receipt.ledger_id, entry_id=receipt.entry_id,
            scheduled=receipt.scheduled,
        )
        if receipt.error is not None:
            told.error.CopyFrom(error_of(receipt.error))
    return reply.SerializeToString()


def deliveries_frame(deliveries: Sequence[Delivery]) -> bytes:
    """A ConsumeReply with these deliveries."""
    return encode_deliveries(cast(Sequence[Delivered], deliveries))


def done_frame(request_id: int, error: MagnetarError | None, epoch: int = 0) -> bytes:
    """A ConsumeReply that answers one request."""
    done = pb.RequestDone(request_id=request_id)
    if error is not None:
        done.error.CopyFrom(error_of(error))
    return pb.ConsumeReply(done=[done], epoch=epoch).SerializeToString()


def event_frame(event: ConsumerEvent) -> bytes:
    """A ConsumeReply that tells a consumer what became of it."""
    match event:
        case ConsumerEvent.END_OF_TOPIC:
            return pb.ConsumeReply(end_of_topic=True).SerializeToString()
        case ConsumerEvent.BECAME_ACTIVE | ConsumerEvent.STANDS_BY:
            active = event is ConsumerEvent.BECAME_ACTIVE
            return pb.ConsumeReply(
                active_changed=pb.ActiveChanged(active=active)
            ).SerializeToString()


def last_message_frame(request_id: int, last: MessagePosition | None) -> bytes:
    """A ConsumeReply with the newest message's id."""
    found = pb.LastMessageId(request_id=request_id, empty=last is None)
    if last is not None:
        found.position.CopyFrom(pb.Position(
            ledger_id=last.ledger_id, entry_id=last.entry_id, batch_index=last.batch_index
        ))
    return pb.ConsumeReply(last_message_id=found).SerializeToString()
