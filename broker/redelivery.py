"""What is remembered of messages that failed: how often, why, and when they are due again.

All of it outlives the owner of the topic. Messages that never failed cost nothing here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from broker.cursor import Cursor
from broker.state_records import Redelivered, RedeliveryCount
from magnetar.dead_letter import MAX_REASON_BYTES

SPARE_ORDINALS = 64
"""Forgotten ones are taken out of the heap when it holds so many more than half of them."""
REASONS_BYTES = 4 << 20
"""Different reasons of one subscription that are kept whole; of what is above, only the first
`SHORT_REASON_BYTES` outlive the owner."""
SHORT_REASON_BYTES = 64
RECORD_BYTES = 256 * 1024
"""About as large as one state record becomes."""
COUNT_BYTES = 24
"""What a count takes in it, about, without its bitmap and its reason."""


@dataclass(frozen=True, slots=True)
class History:
    """Of messages that went out before; see `RedeliveryCount`."""

    count: int = 0
    due_ms: int = 0
    delay_ms: int = 0
    reason: str = ""
    holds: bool = False

    def left_s(self, now_ms: int) -> float:
        """What is left of the delay; no more than all of it, whatever clock `due_ms` is of."""
        return max(0, min(self.due_ms - now_ms, self.delay_ms)) / 1000


NEVER_FAILED = History()


class RedeliveryCounts:
    """Histories by the first ordinal of an entry; gone once the entry is acknowledged."""

    __slots__ = ("_changes", "_histories", "_order", "_reasons", "_recorded")

    def __init__(self, recorded: bool = True) -> None:
        """`recorded` False: nobody asks for the changes, so they are not kept."""
        self._recorded = recorded
        self._histories: dict[int, dict[History, int]] = {}
        self._changes: dict[int, int] = {}
        self._order: list[int] = []
        """A heap of the ordinals known, and of some forgotten ones."""
        self._reasons = _Reasons()

    def __contains__(self, first_ordinal: int) -> bool:
        return first_ordinal in self._histories

    def __len__(self) -> int:
        return len(self._histories)

    @property
    def changed(self) -> bool:
        """There is something that `take_changes` did not answer yet."""
        return bool(self._changes)

    @property
    def reasons_full(self) -> bool:
        """There is no room for another long reason."""
        return self._reasons.full

    @property
    def shortened_reasons(self) -> int:
        """How often one was cut short, since this broker has the topic."""
        return self._reasons.shortened

    def set(self, first_ordinal: int, mask: int, history: History) -> None:
        """Messages `mask` of the entry failed; those that hold their keys go on doing so."""
        for part, before in self.split(first_ordinal, mask):
            self._put(first_ordinal, part, replace(history, holds=history.holds or before.holds))
        if self._recorded:
            self._changes[first_ordinal] = self._changes.get(first_ordinal, 0) | mask

    def restore(self, counted: RedeliveryCount) -> None:
        """As a state record says; later ones win."""
        self._put(counted.first_ordinal, counted.mask, History(
            counted.count, counted.due_ms, counted.delay_ms, counted.reason, counted.holds))

    def _put(self, first_ordinal: int, mask: int, history: History) -> None:
        histories = self._histories.get(first_ordinal)
        if histories is None:
            histories = self._histories[first_ordinal] = {}
            self._note(first_ordinal)
        for other, messages in list(histories.items()):
            if messages & mask:
                self._cut(histories, other, messages & ~mask)
        if history.reason:
            history = replace(history, reason=self._reasons.take(history.reason))
        if history in histories:
            self._reasons.drop(history.reason)  # it has one already
        histories[history] = histories.get(history, 0) | mask

    def _cut(self, histories: dict[History, int], history: History, left: int) -> None:
        if left:
            histories[history] = left
        else:
            del histories[history]
            self._reasons.drop(history.reason)

    def split(self, first_ordinal: int, mask: int) -> list[tuple[int, History]]:
        """`mask` (not 0) in parts of equal histories, by their first messages."""
        histories = self._histories.get(first_ordinal)
        if histories is None:
            return [(mask, NEVER_FAILED)]
        parts = []
        for history, messages in histories.items():
            if mask & messages:
                parts.append((mask & messages, history))
                mask &= ~messages
        if mask:
            parts.append((mask, NEVER_FAILED))
        return sorted(parts, key=_first_message)

    def delivered_at_least(self, times: int) -> list[int]:
        """The first ordinals of entries of which something was, ascending."""
        return sorted(
            ordinal for ordinal, histories in self._histories.items()
            if any(history.count >= times for history in histories)
        )

    def mask_delivered(self, first_ordinal: int, times: int) -> int:
        """Those messages of the entry that were at least so often."""
        mask = 0
        for history, messages in self._histories.get(first_ordinal, {}).items():
            if history.count >= times:
                mask |= messages
        return mask

    def forget(self, first_ordinal: int) -> None:
        """The entry is acknowledged."""
        for history in self._histories.pop(first_ordinal, ()):
            self._reasons.drop(history.reason)

    def forget_acknowledged(self, cursor: Cursor) -> None:
        """Above the cursor's floor too; looks at everything."""
        for first, histories in list(self._histories.items()):
            length = max(map(int.bit_length, histories.values()))
            acknowledged = cursor.mask(first, length)
            if not any(messages & ~acknowledged for messages in histories.values()):
                self.forget(first)

    def forget_below(self, floor: int) -> None:
        """Everything below is acknowledged."""
        order = self._order
        while order and order[0] < floor:
            histories = self._histories.get(order[0])
            if histories is not None:
                if order[0] + max(map(int.bit_length, histories.values())) > floor:
                    return
                self.forget(order[0])
            heappop(order)

    def _note(self, first_ordinal: int) -> None:
        heappush(self._order, first_ordinal)
        if len(self._order) > 2 * len(self._histories) + SPARE_ORDINALS:
            self._order = list(self._histories)
            heapify(self._order)

    def clear(self) -> None:
        self._histories.clear()
        self._changes.clear()
        self._order.clear()
        self._reasons.clear()

    def take_changes(self) -> list[RedeliveryCount]:
        """What was set since the last call, and is not acknowledged."""
        changes, self._changes = self._changes, {}
        return [
            _record(ordinal, messages & mask, history)
            for ordinal, mask in changes.items()
            for history, messages in self._histories.get(ordinal, {}).items()
            if messages & mask
        ]

    def snapshot(self) -> list[RedeliveryCount]:
        return [
            _record(ordinal, messages, history)
            for ordinal, histories in self._histories.items()
            for history, messages in histories.items()
        ]


class _Reasons:
    """How often each reason is in use; different ones take a bounded number of bytes."""

    __slots__ = ("_bytes", "_uses", "shortened")

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}
        self._bytes = 0
        self.shortened = 0

    @property
    def full(self) -> bool:
        return self._bytes + MAX_REASON_BYTES > REASONS_BYTES

    def take(self, reason: str) -> str:
        """The reason, in as many bytes as there is room for, is used once more."""
        if reason not in self._uses:
            size = len(reason.encode())
            if self._bytes + size > REASONS_BYTES:
                reason = first_bytes(whole := reason, SHORT_REASON_BYTES)
                self.shortened += reason != whole
        if reason not in self._uses:
            self._uses[reason] = 0
            self._bytes += len(reason.encode())
        self._uses[reason] += 1
        return reason

    def drop(self, reason: str) -> None:
        """It is used once less."""
        uses = self._uses.get(reason, 0)
        if uses > 1:
            self._uses[reason] = uses - 1
        elif uses:
            del self._uses[reason]
            self._bytes -= len(reason.encode())

    def clear(self) -> None:
        self._uses.clear()
        self._bytes = 0


def records_of(name: str, counts: Iterable[RedeliveryCount]) -> Iterator[Redelivered]:
    """State records of about `RECORD_BYTES` at most."""
    part: list[RedeliveryCount] = []
    size_bytes = 0
    for count in counts:
        part.append(count)
        size_bytes += COUNT_BYTES + count.mask.bit_length() // 8 + len(count.reason)
        if size_bytes >= RECORD_BYTES:
            yield Redelivered(name, tuple(part))
            part, size_bytes = [], 0
    if part:
        yield Redelivered(name, tuple(part))


def first_bytes(text: str, most: int) -> str:
    """So much of a text, at most."""
    raw = text.encode()
    return text if len(raw) <= most else raw[:most].decode(errors="ignore")


def _record(first_ordinal: int, mask: int, history: History) -> RedeliveryCount:
    return RedeliveryCount(
        first_ordinal, mask, history.count, history.due_ms, history.delay_ms, history.reason,
        history.holds,
    )


def _first_message(part: tuple[int, History]) -> int:
    return part[0] & -part[0]
