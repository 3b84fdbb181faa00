"""Frames and entries of the yardstick, and the limits both sides keep."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from typing import Final

from crc32c import crc32c

SWITCH_INTERVAL_S: Final = 0.0005
BATCH_BYTES: Final = 128 * 1024
IN_FLIGHT_BATCHES: Final = 64
PACED_IN_FLIGHT_BATCHES: Final = 8
DELIVERY_BYTES: Final = 256 * 1024
LINK_BUFFER_BYTES: Final = 8 << 20
MESSAGE_OVERHEAD_BYTES: Final = 32

FRAME: Final = struct.Struct(">IQ")
"""Length and entry id, before every entry to a bookie and in its log."""

CHANNEL_OPTIONS: Final = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.max_frame_size", 1 << 20),
    ("grpc.http2.lookahead_bytes", 4 << 20),
]

Buffer = bytes | memoryview


def encode(payloads: list[bytes]) -> bytes:
    """An entry: CRC32C of the rest, count, lengths column, payloads."""
    lengths = array("I", map(len, payloads)).tobytes()
    body = b"".join((len(payloads).to_bytes(4, "big"), lengths, *payloads))
    return crc32c(body).to_bytes(4, "big") + body


def check(entry: Buffer) -> None:
    """End the process when an entry is not what was sent."""
    view = memoryview(entry)
    if crc32c(view[4:]) != int.from_bytes(view[:4], "big"):
        raise SystemExit("checksum mismatch")


def payloads(entry: memoryview) -> Iterator[bytes]:
    """The messages of an entry, each as bytes of its own."""
    count = int.from_bytes(entry[4:8], "big")
    lengths = array("I")
    start = 8 + 4 * count
    lengths.frombytes(entry[8:start])
    for length in lengths:
        yield bytes(entry[start : start + length])
        start += length
