"""An entry cut down to some of its messages, for a consumer that wants no others."""

from __future__ import annotations

import logging
from typing import NamedTuple

from broker.cursor import full_mask
from broker.stored_entry import StoredEntry
from magnetar.entry import Codec, EntryView, indexes_of, parse_header, parse_prefix, select
from magnetar.errors import InvalidFrame, NotSupported

_log = logging.getLogger(__name__)


class Cut(NamedTuple):
    """What a Delivery says of the entry: its bytes, and either bitmap."""

    body: bytes
    skip: bytes
    picked: bytes


CUT_MESSAGE_COST_BYTES = 250
"""What taking a message out of its entry costs beside its bytes, as bytes that would cost as much
to send."""
WHOLE_BYTES = 4_096
"""An entry is sent whole rather than cut to save fewer bytes than this."""


def cutting_cost_bytes(entry: StoredEntry, messages: int) -> int:
    """What cutting an entry to so many messages costs."""
    header = parse_header(parse_prefix(entry.body)[1])
    decompressed = 0 if header.codec is Codec.NONE else header.uncompressed_bytes
    return decompressed + messages * CUT_MESSAGE_COST_BYTES


def cutting_pays(entry: StoredEntry, mask: int) -> bool:
    """Whether sending only these messages is cheaper than sending the whole entry."""
    size, messages = len(entry.body), mask.bit_count()
    saved = size - size * messages // entry.count
    return saved > WHOLE_BYTES and saved > cutting_cost_bytes(entry, messages)


def bitmap(bits: int, count: int) -> bytes:
    """As the wire has it."""
    return bits.to_bytes((count + 7) // 8, "little")


def whole_entry(entry: StoredEntry, mask: int) -> Cut:
    """The bytes as stored, with word of which messages are meant."""
    everything = full_mask(entry.count)
    skip = b"" if mask == everything else bitmap(everything & ~mask, entry.count)
    return Cut(entry.body, skip, b"")


def cut_entry(entry: StoredEntry, mask: int, opened: OpenedEntry | None = None) -> Cut:
    """Only the messages of `mask`, with the producer's checksums.

    What cannot be opened goes out as stored, and its reader is told what is wrong with it:
    nothing gets lost for being unreadable here. Costs a decompression of at most
    MAX_UNCOMPRESSED_BYTES, whatever the entry claims, unless it is `opened` already.
    """
    if mask == full_mask(entry.count):
        return Cut(entry.body, b"", b"")
    try:
        view = (opened or OpenedEntry()).view(entry)
        part = select(view, indexes_of(mask))
    except (InvalidFrame, NotSupported) as error:
        _log.warning("%s cannot be cut: %s", entry.position, error)
        return whole_entry(entry, mask)
    _, batch = parse_prefix(entry.body)
    prefix = entry.body[:len(entry.body) - len(batch)]
    return Cut(prefix + part, b"", bitmap(mask, entry.count))


class OpenedEntry:
    """The entry that was looked into last, so that many looks at one cost one decompression."""

    __slots__ = ("_entry", "_view")

    def __init__(self) -> None:
        self._entry: StoredEntry | None = None
        self._view: EntryView | None = None

    def view(self, entry: StoredEntry) -> EntryView:
        """Raises InvalidFrame."""
        if entry is not self._entry or self._view is None:
            self._view = EntryView(parse_prefix(entry.body)[1], verify=False)
            self._entry = entry
        return self._view

    def forget(self) -> None:
        """Give the memory back."""
        self._entry = self._view = None
