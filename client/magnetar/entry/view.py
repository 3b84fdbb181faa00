"""Reads a batch lazily: what nobody asks for is neither copied nor made an object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from crc32c import crc32c

from magnetar.entry.compression import decompress
from magnetar.entry.header import Buffer, EntryHeader, check, check_columns, parse_header
from magnetar.entry.layout import NO_TEXT, Codec, Flag, read_column
from magnetar.entry.provenance import Provenance, parse_provenance
from magnetar.errors import InvalidFrame


class EntryView:
    """The messages of one batch, by index.

    The constructor verifies the entry's checksum and index. Payloads are verified one by one
    when they were compressed or cut from another entry, for then the entry's checksum does not
    cover the producer's bytes. Every method raises InvalidFrame for bytes that make no sense.
    """

    picked = False
    """Cut for a filter: the indexes are those of the entry it was cut from."""

    __slots__ = ("_buffer", "_columns", "_offsets", "_payload", "_size", "_starts", "header")

    def __init__(self, buffer: Buffer, *, verify: bool = True) -> None:
        self._buffer = memoryview(buffer)
        self.header: EntryHeader = check(self._buffer) if verify else parse_header(self._buffer)
        self._starts: dict[int, int] | None = None
        self._columns: dict[int, Sequence[int] | Sequence[str | None]] = {}
        self._payload: bytes | None = None
        self._offsets: list[int] | None = None
        self._size = self.header.uncompressed_bytes // self.header.count

    @property
    def count(self) -> int:
        return self.header.count

    def payload(self, index: int) -> bytes:
        """The message's bytes as its producer gave them."""
        payload = self._payload
        if payload is None:
            payload = self._open_payload()
        offsets = self._offsets
        if offsets is None:
            return payload[index * self._size:(index + 1) * self._size]
        return payload[offsets[index]:offsets[index + 1]]

    def message_bytes(self, index: int) -> int:
        """Size of the message: its bytes, its texts and its properties as stored."""
        flags = self.header.flags
        if self._offsets is None:
            if flags & Flag.LENGTHS:
                size = self.numbers(Flag.LENGTHS)[self._place(index)]
            else:
                size = self._size
        else:
            place = self._place(index)
            size = self._offsets[place + 1] - self._offsets[place]
        if flags & Flag.PROPERTIES:
            first, last = self._properties_span(self._place(index))
            size += last - first
        for flag in (Flag.PARTITION_KEYS, Flag.ORDERING_KEYS, Flag.TAGS):
            if flags & flag:
                size += len((self._text(flag, index) or "").encode())
        return size

    def _place(self, index: int) -> int:
        """Where the message stands in the columns."""
        return index

    def payloads(self) -> list[bytes]:
        """All messages' bytes."""
        payload = self._payload if self._payload is not None else self._open_payload()
        if self._offsets is None:
            size = self._size
            return [payload[index * size:(index + 1) * size] for index in range(self.count)]
        return [payload[start:end] for start, end in pairwise(self._offsets)]

    def sequence_id(self, index: int) -> int:
        if self.header.flags & Flag.SEQUENCE_IDS:
            return self.numbers(Flag.SEQUENCE_IDS)[index]
        return self.header.first_sequence_id + index

    def event_time_ms(self, index: int) -> int:
        """0: none was given."""
        return self._number_or_zero(Flag.EVENT_TIMES, index)

    def deliver_at_ms(self, index: int) -> int:
        """0: at once."""
        return self._number_or_zero(Flag.DELIVER_AT, index)

    def delivery_times_ms(self) -> Sequence[int]:
        """Of all messages, as `deliver_at_ms` gives one; only for entries that have them."""
        return self.numbers(Flag.DELIVER_AT)

    def expires_after_ms(self, index: int) -> int:
        """How long it may wait from its append on; 0: as the topic says."""
        return self._number_or_zero(Flag.EXPIRES, index)

    def checksum(self, index: int) -> int | None:
        """CRC32C of the message's bytes; None when the producer gave none."""
        if not self.header.flags & Flag.CHECKSUMS:
            return None
        return self.numbers(Flag.CHECKSUMS)[index]

    def partition_key(self, index: int) -> str | None:
        return self._text(Flag.PARTITION_KEYS, index)

    def ordering_key(self, index: int) -> str | None:
        return self._text(Flag.ORDERING_KEYS, index)

    def key(self, index: int) -> str | None:
        """What orders and routes the message: the ordering key, else the partition key."""
        ordering_key = self.ordering_key(index)
        return self.partition_key(index) if ordering_key is None else ordering_key

    def keys(self) -> Sequence[str | None] | None:
        """Of all messages, as `key` tells it; None when none has one."""
        columns = [
            self.texts(flag) for flag in (Flag.ORDERING_KEYS, Flag.PARTITION_KEYS)
            if self.header.flags & flag
        ]
        if len(columns) < 2:
            return columns[0] if columns else None
        return [
            partition_key if ordering_key is None else ordering_key
            for ordering_key, partition_key in zip(*columns, strict=True)
        ]

    def tag(self, index: int) -> str | None:
        return self._text(Flag.TAGS, index)

    def provenance(self, index: int) -> str | None:
        """Where the message came from, when a broker put this entry together from several."""
        return self._text(Flag.PROVENANCE, index)

    def origin(self, index: int) -> Provenance:
        """Who sent the message, when, and as what number of its own: also when the entry was
        put together by a broker."""
        text = self._text(Flag.PROVENANCE, index)
        if text is not None:
            return parse_provenance(text)
        header = self.header
        return Provenance(header.producer_name, self.sequence_id(index), header.publish_time_ms)

    def properties(self, index: int) -> dict[str, str]:
        """The message's properties, a new dict."""
        if not self.header.flags & Flag.PROPERTIES:
            return {}
        first, last = self._properties_span(index)
        return _read_properties(bytes(self._buffer[first:last]))

    def _properties_span(self, index: int) -> tuple[int, int]:
        ends = self._columns.get(Flag.PROPERTIES)
        start = self.header.columns_start + self.header.columns_bytes
        if ends is None:
            sizes = read_column(self._buffer, start, "I", self.count)
            ends = list(accumulate(sizes, initial=self.count * 4))
            if ends[-1] != self.header.properties_bytes:
                raise InvalidFrame("the properties blocks do not fill their section")
            self._columns[Flag.PROPERTIES] = ends
        first, last = ends[index], ends[index + 1]
        assert isinstance(first, int) and isinstance(last, int)
        return start + first, start + last

    def verify_messages(self) -> None:
        """Read everything of every message once, so that nothing in it can fail later.

        Raises InvalidFrame, and NotSupported for a codec whose library is not installed."""
        self._open_payload()
        if self.header.codec is Codec.NONE:
            self._verify_payloads()
        for flag in (Flag.PARTITION_KEYS, Flag.ORDERING_KEYS, Flag.TAGS, Flag.PROVENANCE):
            if self.header.flags & flag:
                self._read_texts(flag)
        if self.header.flags & Flag.PROPERTIES:
            for place in range(self.count):
                first, last = self._properties_span(place)
                _read_properties(bytes(self._buffer[first:last]))
        if self.header.flags & Flag.PROVENANCE:
            for text in self._read_texts(Flag.PROVENANCE):
                if text is not None:
                    parse_provenance(text)

    def _open_payload(self) -> bytes:
        header = self.header
        stored = self._buffer[len(self._buffer) - header.stored_bytes:]
        payload = decompress(stored, header.codec, header.uncompressed_bytes)
        if header.flags & Flag.LENGTHS:
            offsets = list(accumulate(self.numbers(Flag.LENGTHS), initial=0))
            if offsets[-1] != len(payload):
                raise InvalidFrame("the payload sizes do not add up")
            self._offsets = offsets
        self._payload = payload
        if header.codec is not Codec.NONE or header.flags & Flag.DERIVED:
            self._verify_payloads()
        return payload

    def _verify_payloads(self) -> None:
        if not self.header.flags & Flag.CHECKSUMS:
            return
        if list(map(crc32c, self.payloads())) != list(self.numbers(Flag.CHECKSUMS)):
            self._payload = None
            raise InvalidFrame("a message's checksum does not match its bytes")

    def _start(self, flag: int) -> int:
        if self._starts is None:
            self._starts = check_columns(self._buffer, self.header)
        return self._starts[flag]

    def numbers(self, flag: Flag) -> Sequence[int]:
        """A numeric column that is present."""
        column = self._columns.get(flag)
        if column is None:
            typecode = "I" if flag in (Flag.LENGTHS, Flag.CHECKSUMS) else "q"
            column = read_column(self._buffer, self._start(flag), typecode, self.count)
            self._columns[flag] = column
        return column  # type: ignore[return-value]

    def _number_or_zero(self, flag: Flag, index: int) -> int:
        return self.numbers(flag)[index] if self.header.flags & flag else 0

    def _text(self, flag: Flag, index: int) -> str | None:
        return self.texts(flag)[index] if self.header.flags & flag else None

    def texts(self, flag: Flag) -> Sequence[str | None]:
        """A text column that is present."""
        column = self._columns.get(flag)
        if column is None:
            column = self._columns[flag] = self._read_texts(flag)
        return column  # type: ignore[return-value]

    def _read_texts(self, flag: Flag) -> list[str | None]:
        at = self._start(flag)
        lengths = read_column(self._buffer, at, "I", self.count)
        at += self.count * 4
        present: Iterable[int] = lengths
        if NO_TEXT in lengths:
            present = [0 if length == NO_TEXT else length for length in lengths]
        ends = list(accumulate(present, initial=0))
        blob = bytes(self._buffer[at:at + ends[-1]])
        texts: list[str | None]
        if blob.isascii():  # one character a byte
            text = blob.decode("ascii")
            texts = [text[start:end] for start, end in pairwise(ends)]
        else:
            texts = [_decoded(blob[start:end]) for start, end in pairwise(ends)]
        if present is not lengths:
            for index, length in enumerate(lengths):
                if length == NO_TEXT:
                    texts[index] = None
        return texts


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise InvalidFrame("a text in the entry is not UTF-8") from error


def _read_properties(block: bytes) -> dict[str, str]:
    if not block:
        return {}
    at, texts = 2, []
    for _ in range(2 * int.from_bytes(block[:2], "little")):
        length = int.from_bytes(block[at:at + 4], "little")
        if at + 4 + length > len(block):
            raise InvalidFrame("a property ends beyond its block")
        texts.append(_decoded(block[at + 4:at + 4 + length]))
        at += 4 + length
    if at != len(block):
        raise InvalidFrame("the properties do not fill their block")
    return dict(zip(texts[::2], texts[1::2], strict=True))
