"""Where ordinals stand in a topic's ledgers, in bytes, without reading anything.

Of each ledger this owner wrote, or read at its start, some entries are remembered: every one of a
short ledger, and never more than `MAX_SAMPLES`, evenly spread. Between two of them, and in the
ledgers of earlier owners, messages are taken to be of equal size. So the size of a backlog is
exact to the entry for short ledgers, and to a fraction of a percent of a ledger for long ones.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from broker.memory_log import AnyLog
from magnetar.ids import LedgerId
from metadata.topics import LedgerInfo

MAX_SAMPLES = 256
"""Remembered entries of a ledger; 4 KiB."""
MAX_SAMPLED_LEDGERS = 64
"""The newest ones; of older ledgers only the first ordinal and the size are known."""


class _Samples:
    """Some entries of a ledger: the ordinal of the first message, the bytes before it."""

    __slots__ = ("bytes_before", "end_bytes", "end_ordinal", "entries", "ordinals", "stride")

    def __init__(self) -> None:
        self.ordinals = array("q")
        self.bytes_before = array("q")
        self.entries = 0
        self.stride = 1
        self.end_ordinal = 0
        self.end_bytes = 0

    def add(self, first_ordinal: int, end_ordinal: int, size_bytes: int) -> None:
        """The next entry."""
        if self.entries % self.stride == 0:
            if len(self.ordinals) == MAX_SAMPLES:
                self.ordinals, self.bytes_before = self.ordinals[::2], self.bytes_before[::2]
                self.stride *= 2
            if self.entries % self.stride == 0:
                self.ordinals.append(first_ordinal)
                self.bytes_before.append(self.end_bytes)
        self.entries += 1
        self.end_ordinal = end_ordinal
        self.end_bytes += size_bytes


class LogIndex:
    """Of one topic's log."""

    def __init__(self, log: AnyLog) -> None:
        self._log = log
        self._samples: dict[LedgerId, _Samples] = {}
        self._first_ordinals: dict[LedgerId, int] = {}
        self._learned_from: object = None
        """The list of ledgers whose recorded ordinals are known here."""
        self.end_ordinal = 0

    def stored(
        self, ledger_id: LedgerId, entry_id: int, first_ordinal: int, end_ordinal: int,
        size_bytes: int,
    ) -> None:
        """An entry, in the order of the log; one told before changes nothing."""
        self.end_ordinal = end_ordinal
        samples = self._samples.get(ledger_id)
        if samples is None:
            if entry_id:
                return  # what comes before it is not known
            self.begins(ledger_id, first_ordinal)
            samples = self._samples[ledger_id] = _Samples()
            if len(self._samples) > MAX_SAMPLED_LEDGERS:
                del self._samples[next(iter(self._samples))]
        if entry_id == samples.entries:
            samples.add(first_ordinal, end_ordinal, size_bytes)

    def begins(self, ledger_id: LedgerId, first_ordinal: int) -> None:
        """A ledger's first message has this ordinal."""
        self._first_ordinals[ledger_id] = first_ordinal
        self._log.note_first_ordinal(ledger_id, first_ordinal)

    def goes_on(
        self, ledger_id: LedgerId, entries: int, first_ordinal: int, end_ordinal: int,
        size_bytes: int,
    ) -> None:
        """So many entries and bytes of the newest ledger are not told one by one."""
        self.begins(ledger_id, first_ordinal)
        samples = _Samples()
        samples.add(first_ordinal, end_ordinal, size_bytes)
        samples.entries = entries
        self._samples = {ledger_id: samples}

    def first_ordinal_of(self, ledger_id: LedgerId) -> int | None:
        """The ordinal of the ledger's first message; None while unknown."""
        known = self._first_ordinals.get(ledger_id)
        ledgers = self._log.record.ledgers
        if known is None and ledgers is not self._learned_from:
            self._learned_from = ledgers
            for info in ledgers:
                if info.first_ordinal > 0:
                    self._first_ordinals.setdefault(info.ledger_id, info.first_ordinal)
            known = self._first_ordinals.get(ledger_id)
        return known

    def told_of(self, ledger_id: LedgerId) -> tuple[int, int] | None:
        """(first ordinal, bytes up to the newest entry told) of a ledger."""
        samples = self._samples.get(ledger_id)
        first = self._first_ordinals.get(ledger_id)
        return None if samples is None or first is None else (first, samples.end_bytes)

    def is_whole(self, info: LedgerInfo) -> bool:
        """Every entry of a closed ledger was told."""
        samples = self._samples.get(info.ledger_id)
        return samples is not None and samples.entries == info.entries

    def forget(self, present: Iterable[LedgerId]) -> None:
        """Other ledgers are gone."""
        kept = set(present)
        for ledger_id in [one for one in self._first_ordinals if one not in kept]:
            del self._first_ordinals[ledger_id]
        for ledger_id in [one for one in self._samples if one not in kept]:
            del self._samples[ledger_id]

    def unknown_first(self) -> LedgerId | None:
        """The newest ledger of which not even the first ordinal is known."""
        for info in reversed(self._log.record.ledgers):
            if self.first_ordinal_of(info.ledger_id) is None and self._log.entries_of(info):
                return info.ledger_id
        return None

    def bytes_from(self, ordinal: int) -> int:
        """Bytes of entries from the one that holds `ordinal` to the end, about. A ledger of
        which too little is known counts whole."""
        found = 0
        end = self.end_ordinal
        for info in reversed(self._log.record.ledgers):
            size_bytes = self._log.bytes_of(info)
            first = self.first_ordinal_of(info.ledger_id)
            if end <= ordinal:
                break
            if first is not None and first <= ordinal:
                return found + size_bytes - self._bytes_before(info, ordinal, first, end)
            found += size_bytes
            end = first if first is not None else end
        return found

    def ordinal_with_bytes(self, size_bytes: int) -> int:
        """The lowest ordinal from which on there are at most so many bytes, about."""
        left, end = size_bytes, self.end_ordinal
        for info in reversed(self._log.record.ledgers):
            in_ledger = self._log.bytes_of(info)
            first = self.first_ordinal_of(info.ledger_id)
            if first is None or in_ledger > left:
                return end if first is None else self._ordinal_at(info, in_ledger - left, end)
            left, end = left - in_ledger, first
        return end

    def bytes_consumed(self, info: LedgerInfo, ordinal: int) -> int:
        """Bytes of the ledger's entries below `ordinal`, about."""
        first = self.first_ordinal_of(info.ledger_id)
        if first is None or ordinal <= first:
            return 0
        return self._bytes_before(info, ordinal, first, self._end_of(info))

    def _end_of(self, info: LedgerInfo) -> int:
        end = self.end_ordinal
        for other in reversed(self._log.record.ledgers):
            if other.ledger_id == info.ledger_id:
                break
            first = self.first_ordinal_of(other.ledger_id)
            end = end if first is None else first
        return end

    def _bytes_before(self, info: LedgerInfo, ordinal: int, first: int, end: int) -> int:
        ordinals, bytes_before = self._curve(info, first, end)
        at = bisect_right(ordinals, ordinal) - 1
        if at < 0:
            return 0
        if at == len(ordinals) - 1:
            return bytes_before[-1]
        return bytes_before[at] + _share(
            ordinal - ordinals[at], ordinals[at + 1] - ordinals[at],
            bytes_before[at + 1] - bytes_before[at],
        )

    def _ordinal_at(self, info: LedgerInfo, size_bytes: int, end: int) -> int:
        """The first ordinal with at least so many bytes of the ledger before it."""
        first = self.first_ordinal_of(info.ledger_id)
        assert first is not None
        ordinals, bytes_before = self._curve(info, first, end)
        at = bisect_right(bytes_before, size_bytes - 1)
        if at >= len(ordinals):
            return end
        if at == 0:
            return ordinals[0]
        span = ordinals[at] - ordinals[at - 1]
        missing = bytes_before[at] - size_bytes
        return ordinals[at] - _share(missing, bytes_before[at] - bytes_before[at - 1], span)

    def _curve(
        self, info: LedgerInfo, first: int, end: int
    ) -> tuple[Sequence[int], Sequence[int]]:
        """Ordinals and the bytes of the ledger before each, both growing, to the ledger's end."""
        samples = self._samples.get(info.ledger_id)
        if samples is None or not samples.ordinals:
            return (first, end), (0, self._log.bytes_of(info))
        return (
            [*samples.ordinals, samples.end_ordinal], [*samples.bytes_before, samples.end_bytes]
        )


def _share(part: int, whole: int, of: int) -> int:
    return of * part // whole if whole > 0 else 0
