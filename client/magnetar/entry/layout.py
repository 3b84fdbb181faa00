"""The client part's format, version 1. All numbers are little-endian.

    u32 crc32c      over everything after it
    u8  version     1
    u8  codec       of the payload section
    u16 flags       which columns are present, and how the entry came to be
    i64 first sequence id, i64 last sequence id
    u32 count       of messages, at least 1
    i64 publish time in milliseconds since the epoch
    u32 payload bytes before compression, u32 payload bytes as stored
    u32 bytes of the properties section
    u16 bytes of the producer name, then the name
    numeric columns in the order of their flags, then text columns in the order of theirs,
        each an array with one element a message
    properties section (its own sizes array, then blocks), never compressed
    payload section

A numeric column is `count` numbers. A text column is `count` u32 lengths (`NO_TEXT`: none), then
the UTF-8 bytes. An absent column means the default: payloads of equal size, consecutive sequence
ids, no keys, no times. A message's properties block is u16 pairs, then a u32 length and UTF-8
bytes for each key and each value.
"""

from __future__ import annotations

import struct
import sys
from array import array
from enum import IntEnum, IntFlag
from typing import Final

from magnetar.errors import InvalidFrame

FORMAT_VERSION: Final = 1
HEADER: Final = struct.Struct("<IBBHqqIqIIIH")
CRC_BYTES: Final = 4
NO_TEXT: Final = 0xFFFFFFFF

MAX_MESSAGES_A_BATCH: Final = 1 << 20
MAX_UNCOMPRESSED_BYTES: Final = 64 << 20
"""Payload section after decompression; bounds what a hostile entry can make a reader allocate."""
MAX_PROPERTIES: Final = 0xFFFF


class Codec(IntEnum):
    """How the payload section is stored."""

    NONE = 0
    LZ4 = 1
    ZSTD = 2


class Flag(IntFlag):
    """Columns present, in the order in which they are stored, and marks on the whole entry."""

    LENGTHS = 1
    CHECKSUMS = 2
    SEQUENCE_IDS = 4
    EVENT_TIMES = 8
    DELIVER_AT = 16
    PARTITION_KEYS = 32
    ORDERING_KEYS = 64
    TAGS = 128
    PROPERTIES = 256
    DERIVED = 512
    """Cut from another entry: the checksums of the messages are the producer's, the rest is not."""
    EXPIRES = 1024
    """How long each message may wait for its consumers, in milliseconds; 0: as the topic says."""
    PROVENANCE = 2048
    """Where messages came from that a broker put together from several entries."""


KNOWN_FLAGS: Final = 4095
NUMERIC_COLUMNS: Final = (
    (int(Flag.LENGTHS), "I"), (int(Flag.CHECKSUMS), "I"), (int(Flag.SEQUENCE_IDS), "q"),
    (int(Flag.EVENT_TIMES), "q"), (int(Flag.DELIVER_AT), "q"), (int(Flag.EXPIRES), "q"),
)
TEXT_COLUMNS: Final = (
    int(Flag.PARTITION_KEYS), int(Flag.ORDERING_KEYS), int(Flag.TAGS), int(Flag.PROVENANCE),
)
ITEM_BYTES: Final = {"I": 4, "q": 8}

if array("I").itemsize != 4 or array("q").itemsize != 8:  # pragma: no cover
    raise ImportError("this platform's integer arrays do not fit the entry format")
_SWAP: Final = sys.byteorder == "big"


def column_bytes(column: array[int]) -> bytes:
    """The column as stored."""
    if _SWAP:  # pragma: no cover
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def read_column(view: memoryview, start: int, typecode: str, count: int) -> array[int]:
    """`count` numbers from `start`; raises InvalidFrame when the buffer ends before."""
    end = start + count * ITEM_BYTES[typecode]
    if end > len(view):
        raise InvalidFrame(f"a column of {count} numbers ends beyond the entry")
    column = array(typecode)
    column.frombytes(view[start:end])
    if _SWAP:  # pragma: no cover
        column.byteswap()
    return column
