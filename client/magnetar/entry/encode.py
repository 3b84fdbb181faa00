"""Builds a batch's bytes: whole columns at a time, nothing packed a message."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from crc32c import crc32c

from magnetar.entry.compression import compress
from magnetar.entry.layout import (
    CRC_BYTES,
    FORMAT_VERSION,
    HEADER,
    MAX_MESSAGES_A_BATCH,
    MAX_PROPERTIES,
    MAX_UNCOMPRESSED_BYTES,
    NO_TEXT,
    Codec,
    Flag,
    column_bytes,
)
from magnetar.errors import InvalidArgument, MessageTooLarge

Texts = Sequence[str | None]
Properties = Sequence[Mapping[str, str] | None]


@dataclass(slots=True)
class Columns:
    """The optional columns, one element a message each; None: nobody used it."""

    sequence_ids: Sequence[int] | None = None
    event_times_ms: Sequence[int] | None = None
    deliver_at_ms: Sequence[int] | None = None
    expires_after_ms: Sequence[int] | None = None
    partition_keys: Texts | None = None
    ordering_keys: Texts | None = None
    tags: Texts | None = None
    provenance: Texts | None = None
    properties: Properties | None = None
    checksums: Sequence[int] | None = None
    """CRC32C of each payload; None: computed here."""


def _text_column(texts: Texts) -> bytes:
    encoded = [None if text is None else text.encode() for text in texts]
    lengths = array("I", [NO_TEXT if text is None else len(text) for text in encoded])
    return column_bytes(lengths) + b"".join([text for text in encoded if text is not None])


def _properties_block(properties: Mapping[str, str] | None) -> bytes:
    if not properties:
        return b""
    if len(properties) > MAX_PROPERTIES:
        raise InvalidArgument(f"a message has at most {MAX_PROPERTIES} properties")
    parts = [len(properties).to_bytes(2, "little")]
    for pair in properties.items():
        for text in pair:
            encoded = text.encode()
            parts += (len(encoded).to_bytes(4, "little"), encoded)
    return b"".join(parts)


def _optional_columns(columns: Columns, parts: list[bytes]) -> int:
    flags = 0
    for flag, numbers in (
        (Flag.SEQUENCE_IDS, columns.sequence_ids),
        (Flag.EVENT_TIMES, columns.event_times_ms),
        (Flag.DELIVER_AT, columns.deliver_at_ms),
        (Flag.EXPIRES, columns.expires_after_ms),
    ):
        if numbers is not None:
            flags |= flag
            parts.append(column_bytes(array("q", numbers)))
    for flag, texts in (
        (Flag.PARTITION_KEYS, columns.partition_keys),
        (Flag.ORDERING_KEYS, columns.ordering_keys),
        (Flag.TAGS, columns.tags),
        (Flag.PROVENANCE, columns.provenance),
    ):
        if texts is not None:
            flags |= flag
            parts.append(_text_column(texts))
    return int(flags)


_NO_COLUMNS = Columns()


def encode_batch(
    producer_name: str,
    first_sequence_id: int,
    payloads: Sequence[bytes],
    *,
    publish_time_ms: int,
    codec: Codec = Codec.NONE,
    columns: Columns = _NO_COLUMNS,
    derived: bool = False,
) -> bytes:
    """The client part of an entry.

    Raises InvalidArgument for what the format cannot hold, NotSupported without the codec.
    """
    count = len(payloads)
    if not 1 <= count <= MAX_MESSAGES_A_BATCH:
        raise InvalidArgument(f"a batch holds 1 to {MAX_MESSAGES_A_BATCH} messages, not {count}")
    lengths = array("I", map(len, payloads))
    size = sum(lengths)
    if size > MAX_UNCOMPRESSED_BYTES:
        raise MessageTooLarge(f"a batch of {size} bytes is above {MAX_UNCOMPRESSED_BYTES}")
    flags, parts = int(Flag.CHECKSUMS), [b""]
    if lengths.count(lengths[0]) != count:
        flags |= Flag.LENGTHS
        parts.append(column_bytes(lengths))
    checksums = map(crc32c, payloads) if columns.checksums is None else columns.checksums
    parts.append(column_bytes(array("I", checksums)))
    last_sequence_id, properties = first_sequence_id + count - 1, b""
    if columns is not _NO_COLUMNS:
        flags |= _optional_columns(columns, parts)
        if columns.sequence_ids is not None:
            last_sequence_id = columns.sequence_ids[-1]
        if columns.properties is not None:
            flags |= Flag.PROPERTIES
            blocks = [_properties_block(block) for block in columns.properties]
            properties = column_bytes(array("I", map(len, blocks))) + b"".join(blocks)
            parts.append(properties)
    if derived:
        flags |= Flag.DERIVED
    stored = size
    if codec is Codec.NONE:
        parts += payloads
    else:
        payload = compress(b"".join(payloads), codec)
        codec, payload = (codec, payload) if len(payload) < size else (
            Codec.NONE, b"".join(payloads))
        stored = len(payload)
        parts.append(payload)
    name = producer_name.encode()
    parts[0] = HEADER.pack(
        0, FORMAT_VERSION, codec, flags, first_sequence_id, last_sequence_id, count,
        publish_time_ms, size, stored, len(properties), len(name),
    )[CRC_BYTES:] + name
    body = b"".join(parts)
    return crc32c(body).to_bytes(CRC_BYTES, "little") + body
