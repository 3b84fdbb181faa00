"""The entry's header: all a broker reads of a batch before it stores it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import islice
from operator import lt

from crc32c import crc32c

from magnetar.entry.layout import (
    CRC_BYTES,
    FORMAT_VERSION,
    HEADER,
    ITEM_BYTES,
    KNOWN_FLAGS,
    MAX_MESSAGES_A_BATCH,
    MAX_UNCOMPRESSED_BYTES,
    NO_TEXT,
    NUMERIC_COLUMNS,
    TEXT_COLUMNS,
    Codec,
    Flag,
    read_column,
)
from magnetar.errors import InvalidFrame

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class EntryHeader:
    """A batch without its messages. `flags` is a plain number to be tested with `Flag`s."""

    producer_name: str
    first_sequence_id: int
    last_sequence_id: int
    count: int
    codec: Codec
    publish_time_ms: int
    flags: int
    uncompressed_bytes: int
    stored_bytes: int
    properties_bytes: int
    columns_start: int
    columns_bytes: int

    @property
    def delayed(self) -> bool:
        """Some message asks for delivery at a later time."""
        return bool(self.flags & Flag.DELIVER_AT)

    @property
    def expires(self) -> bool:
        """Some message says how long it may wait."""
        return bool(self.flags & Flag.EXPIRES)


def parse_header(buffer: Buffer) -> EntryHeader:
    """The header, in constant time and without looking at the checksum; raises InvalidFrame."""
    if len(buffer) < HEADER.size:
        raise InvalidFrame(f"an entry of {len(buffer)} bytes is shorter than its header")
    (_, version, codec, flags, first, last, count, time_ms, uncompressed, stored, properties,
     name_bytes) = HEADER.unpack_from(buffer)
    if version != FORMAT_VERSION:
        raise InvalidFrame(f"entry format version {version} is not known here; upgrade the reader")
    if codec > Codec.ZSTD or flags & ~KNOWN_FLAGS:
        raise InvalidFrame(f"unknown codec {codec} or flags {flags:#x}")
    if not 1 <= count <= MAX_MESSAGES_A_BATCH:
        raise InvalidFrame(f"a batch holds 1 to {MAX_MESSAGES_A_BATCH} messages, not {count}")
    if uncompressed > MAX_UNCOMPRESSED_BYTES or (codec == 0 and uncompressed != stored):
        raise InvalidFrame(f"impossible payload size {uncompressed} (stored: {stored})")
    columns_start = HEADER.size + name_bytes
    columns_bytes = len(buffer) - columns_start - properties - stored
    if columns_bytes < 0:
        raise InvalidFrame("the sections are larger than the entry")
    _check_numbers(first, last, count, flags, properties, uncompressed)
    try:
        name = str(buffer[HEADER.size:columns_start], "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFrame("the producer name is not UTF-8") from error
    return EntryHeader(
        name, first, last, count, Codec(codec), time_ms, flags, uncompressed, stored, properties,
        columns_start, columns_bytes,
    )


def _check_numbers(
    first: int, last: int, count: int, flags: int, properties: int, uncompressed: int
) -> None:
    if first < 0 or last - first < count - 1:
        raise InvalidFrame(f"sequence ids {first} to {last} cannot number {count} messages")
    if not flags & Flag.SEQUENCE_IDS and last - first != count - 1:
        raise InvalidFrame(f"sequence ids {first} to {last} are not consecutive")
    if not flags & Flag.LENGTHS and uncompressed % count:
        raise InvalidFrame(f"{uncompressed} bytes are not {count} payloads of equal size")
    if bool(flags & Flag.PROPERTIES) != (properties > 0):
        raise InvalidFrame("properties section and its flag disagree")


def check(buffer: Buffer, header: EntryHeader | None = None) -> EntryHeader:
    """Verify the checksum and that the index adds up; raises InvalidFrame.

    Does not decompress and makes no object a message.
    """
    view = memoryview(buffer)
    if header is None:
        header = parse_header(view)
    found = crc32c(view[CRC_BYTES:])
    if found != int.from_bytes(view[:CRC_BYTES], "little"):
        raise InvalidFrame("the entry's checksum does not match its bytes")
    if header.flags == Flag.LENGTHS | Flag.CHECKSUMS:  # by far the most common
        if header.columns_bytes != header.count * 8:
            raise InvalidFrame("the columns do not fill their section")
        lengths = read_column(view, header.columns_start, "I", header.count)
        if sum(lengths) != header.uncompressed_bytes:
            raise InvalidFrame("the payload sizes do not add up")
    else:
        check_columns(view, header)
    return header


def check_columns(view: memoryview, header: EntryHeader) -> dict[int, int]:
    """Where each column starts; raises InvalidFrame when one does not add up."""
    at, count, flags, starts = header.columns_start, header.count, header.flags, {}
    end = at + header.columns_bytes
    columns = view[:end]
    for flag, typecode in NUMERIC_COLUMNS:
        if flags & flag:
            starts[flag] = at
            at += count * ITEM_BYTES[typecode]
    if at > end:
        raise InvalidFrame("the columns are larger than their section")
    for flag in TEXT_COLUMNS:
        if flags & flag:
            starts[flag] = at
            at += count * 4 + text_bytes(read_column(columns, at, "I", count))
    if at != end:
        raise InvalidFrame("the columns do not fill their section")
    if flags & Flag.LENGTHS:
        lengths = read_column(columns, starts[Flag.LENGTHS], "I", count)
        if sum(lengths) != header.uncompressed_bytes:
            raise InvalidFrame("the payload sizes do not add up")
    if flags & Flag.SEQUENCE_IDS:
        ids = read_column(columns, starts[Flag.SEQUENCE_IDS], "q", count)
        ordered = all(map(lt, ids, islice(ids, 1, None)))
        if ids[0] != header.first_sequence_id or ids[-1] != header.last_sequence_id or not ordered:
            raise InvalidFrame("the sequence ids do not grow from first to last")
    if flags & Flag.PROPERTIES:
        section = view[end:end + header.properties_bytes]
        if sum(read_column(section, 0, "I", count)) + count * 4 != header.properties_bytes:
            raise InvalidFrame("the properties blocks do not fill their section")
    return starts


def text_bytes(lengths: array[int]) -> int:
    """Bytes of a text column after its lengths."""
    return sum(lengths) - lengths.count(NO_TEXT) * NO_TEXT
