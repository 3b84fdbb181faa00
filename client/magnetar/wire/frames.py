"""The two frames that carry messages, coded by hand as the protobuf they are.

The generated code would copy every entry twice a hop. A decoder answers None for a frame that
holds anything but entries: the generated code reads that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from magnetar.errors import InvalidFrame
from magnetar.wire import broker_pb2 as pb

Buffer = bytes | bytearray | memoryview

_FIELD_2 = b"\x12"  # ProduceRequest.batches and ConsumeReply.deliveries: field 2, bytes
_MASK_64 = (1 << 64) - 1


class Delivered(NamedTuple):
    """A `Delivery`; `entry` may be a view into the frame."""

    ledger_id: int
    entry_id: int
    entry: Buffer
    skip: bytes = b""
    redelivery_count: int = 0
    epoch: int = 0
    picked: bytes = b""


def _varint(number: int) -> bytes:
    number &= _MASK_64
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _read_varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK_64, at
        shift += 7
        if shift > 63:
            break
    raise InvalidFrame("a number in the frame has no end")


def encode_batches(batches: Iterable[Buffer]) -> bytes:
    """A `ProduceRequest` of nothing but batches."""
    parts: list[Buffer] = []
    for batch in batches:
        parts += (_FIELD_2, _varint(len(batch)), batch)
    return b"".join(parts)


def _fields_2(frame: bytes) -> list[memoryview] | None:
    view, at, end, found = memoryview(frame), 0, len(frame), []
    while at < end:
        if frame[at] != 0x12:
            return None
        length, at = _read_varint(frame, at + 1, end)
        if at + length > end:
            raise InvalidFrame("a field ends beyond its frame")
        found.append(view[at:at + length])
        at += length
    return found


def decode_batches(frame: bytes) -> list[memoryview] | None:
    """The batches of a `ProduceRequest`, as views; None when it holds anything else."""
    return _fields_2(frame) if frame else None


def encode_deliveries(deliveries: Sequence[Delivered]) -> bytes:
    """A `ConsumeReply` of nothing but deliveries."""
    parts: list[Buffer] = []
    for ledger_id, entry_id, entry, skip, redelivery_count, epoch, picked in deliveries:
        head = (b"\x08" + _varint(ledger_id) if ledger_id else b"") + (
            b"\x10" + _varint(entry_id) if entry_id else b"")
        if len(entry):
            head += b"\x1a" + _varint(len(entry))
        tail = b"\x22" + _varint(len(skip)) + skip if skip else b""
        if redelivery_count:
            tail += b"\x28" + _varint(redelivery_count)
        if epoch:
            tail += b"\x30" + _varint(epoch)
        if picked:
            tail += b"\x3a" + _varint(len(picked)) + picked
        size = len(head) + len(entry) + len(tail)
        parts += (_FIELD_2 + _varint(size) + head, entry, tail)
    return b"".join(parts)


def decode_deliveries(frame: bytes) -> list[Delivered] | None:
    """The deliveries of a `ConsumeReply`, entries as views; None when it holds anything else."""
    bodies = _fields_2(frame) if frame else None
    return None if bodies is None else [_delivery(body) for body in bodies]


def _delivery(body: memoryview) -> Delivered:
    at, end = 0, len(body)
    numbers = [0, 0, 0, 0, 0, 0, 0]
    entry: Buffer = b""
    skip = picked = b""
    while at < end:
        tag = body[at]
        number, at = _read_varint(body, at + 1, end)
        if tag in (0x1A, 0x22, 0x3A):
            if at + number > end:
                raise InvalidFrame("a delivery ends beyond its frame")
            if tag == 0x1A:
                entry = body[at:at + number]
            elif tag == 0x22:
                skip = bytes(body[at:at + number])
            else:
                picked = bytes(body[at:at + number])
            at += number
        elif tag in (0x08, 0x10, 0x28, 0x30):
            numbers[tag >> 3] = number
        else:
            return _generated_delivery(bytes(body))
    entry_id = numbers[2] - (1 << 64) if numbers[2] >> 63 else numbers[2]
    return Delivered(
        numbers[1], entry_id, entry, skip, numbers[5] & 0xFFFFFFFF, numbers[6], picked)


def _generated_delivery(body: bytes) -> Delivered:
    """A delivery with fields of a later version."""
    try:
        delivery = pb.Delivery.FromString(body)
    except Exception as error:
        raise InvalidFrame(f"not a delivery: {error}") from error
    return Delivered(
        delivery.ledger_id, delivery.entry_id, delivery.entry, delivery.skip,
        delivery.redelivery_count, delivery.epoch, delivery.picked,
    )
