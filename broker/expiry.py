"""Decides which messages have waited too long for a subscription, when their turn comes.

A message expires so long after its append: its own time to live or the topic's policy, whichever
is shorter. It is passed over and counts as acknowledged, as durably as if a consumer had done it;
with `dead_letter_expired` it goes to the dead-letter topic first. What is at a consumer is left
there, and judged when it comes back. What failed too often waits for the dead-letter topic, however
long that takes. Readers get whatever is stored.

Times of appends never fall along the log, so after a clock went back messages live longer, and
none is passed over too early.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from broker.cursor import Cursor
from broker.dead_letter_port import DeadLetters
from broker.redelivery import RedeliveryCounts
from broker.stored_entry import StoredEntry
from magnetar.entry import EntryView, parse_prefix
from magnetar.errors import InvalidFrame, MagnetarError
from magnetar.runtime.clock import Clock
from tenants.policies import TopicPolicies

MAX_GIVEN_ENTRIES = 1_000
"""Expired entries on their way to the dead-letter topic; with more, dispatch waits for them."""
EXPIRED = "expired"
"""As the reason on a dead letter."""


class ExpiryHost(Protocol):
    """What expiry needs of its subscription."""

    name: str
    durable: bool
    epoch: int
    cursor: Cursor
    counts: RedeliveryCounts

    @property
    def policies(self) -> TopicPolicies: ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    @property
    def max_deliveries(self) -> int:
        """Of a message before it is given up; 0: any number."""

    def passed_over(self, entry: StoredEntry, mask: int) -> None:
        """These messages count as acknowledged."""

    def wake(self) -> None:
        """Something can go on."""


class Expiry:
    """Of one subscription."""

    def __init__(self, host: ExpiryHost, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._now_ms = 0
        self._ttl_ms = 0
        self._dead_letters: DeadLetters | None = None
        self._given: dict[int, int] = {}
        self.expired_messages = 0
        """Since this broker has the topic."""

    @property
    def full(self) -> bool:
        """So much is on its way to the dead-letter topic that dispatch has to wait."""
        return len(self._given) >= MAX_GIVEN_ENTRIES

    @property
    def given_messages(self) -> int:
        """Expired, and not yet in the dead-letter topic."""
        return sum(mask.bit_count() for mask in self._given.values())

    def given_masks(self) -> Iterable[tuple[int, int]]:
        """What is on its way there: (first ordinal of the entry, which of its messages)."""
        return self._given.items()

    def owed_masks(self) -> Iterable[tuple[int, int]]:
        """What failed too often and is not in the dead-letter topic: (first ordinal of the entry,
        which of its messages)."""
        times, counts = self._host.max_deliveries, self._host.counts
        for first in counts.delivered_at_least(times) if times else ():
            yield first, counts.mask_delivered(first, times)

    def owed(self, entry: StoredEntry) -> int:
        """As `owed_masks`, of one entry."""
        times = self._host.max_deliveries
        return self._host.counts.mask_delivered(entry.first_ordinal, times) if times else 0

    def begin_turn(self) -> None:
        """Look at the clock and the policies once for many entries."""
        self._now_ms = self._clock.wall_ms()
        policies = self._host.policies
        self._ttl_ms = policies.message_ttl_ms
        self._dead_letters = (
            self._host.dead_letters
            if policies.dead_letter_expired and self._host.durable else None
        )

    def live(self, entry: StoredEntry, mask: int) -> int:
        """Those of `mask`, which nobody has acknowledged, that may be delivered; the others are
        dealt with here."""
        if not self._host.name:
            return mask
        if self._given:
            mask &= ~self._given.get(entry.first_ordinal, 0)
        expired = self.expired_of(entry, mask)
        if expired:
            self._give_up(entry, expired)
        return mask & ~expired

    def expired_of(self, entry: StoredEntry, mask: int) -> int:
        """Those of `mask` that have waited too long, as of the beginning of the turn."""
        age_ms = self._now_ms - entry.append_time_ms
        if self._ttl_ms and age_ms >= self._ttl_ms:
            expired = mask
        elif not entry.expires:
            return 0
        else:
            expired = 0
            for index, ttl_ms in enumerate(ttls_ms_of(entry)):
                if 0 < ttl_ms <= age_ms:
                    expired |= 1 << index
            expired &= mask
        if expired and self._dead_letters is None:
            expired &= ~self.owed(entry)  # else they go to the dead-letter topic in any case
        return expired

    def due_ms(self, entry: StoredEntry, mask: int) -> int | None:
        """When the first of these messages expires, by the wall clock; None: none ever does."""
        ttls_ms = [ttl_ms for ttl_ms in (self._ttl_ms,) if ttl_ms]
        if entry.expires:
            ttls_ms += [
                ttl_ms for index, ttl_ms in enumerate(ttls_ms_of(entry))
                if ttl_ms > 0 and mask >> index & 1
            ]
        return entry.append_time_ms + min(ttls_ms) if ttls_ms else None

    def _give_up(self, entry: StoredEntry, mask: int) -> None:
        if self._dead_letters is None:
            self.expired_messages += mask.bit_count()
            self._host.passed_over(entry, mask)
            return
        first = entry.first_ordinal
        self._given[first] = self._given.get(first, 0) | mask
        for part, history in self._host.counts.split(first, mask):
            self._give(self._dead_letters, entry, part, history.count)

    def _give(
        self, dead_letters: DeadLetters, entry: StoredEntry, mask: int, deliveries: int
    ) -> None:
        first, epoch = entry.first_ordinal, self._host.epoch

        def done(error: MagnetarError | None) -> None:
            if error is None:
                self.expired_messages += mask.bit_count()
            if epoch != self._host.epoch:
                return
            was_full = self.full
            left = self._given.get(first, 0) & ~mask
            if left:
                self._given[first] = left
            else:
                self._given.pop(first, None)
            if was_full and not self.full:
                self._host.wake()

        dead_letters.give(self._host.name, entry, mask, deliveries, EXPIRED, done)

    def forget_below(self, floor: int) -> None:
        """Everything below is acknowledged: dispatch need not wait for that to be taken."""
        for first, mask in list(self._given.items()):
            if first + mask.bit_length() <= floor:
                del self._given[first]

    def reset(self) -> None:
        """A seek: what was given up before it is to be judged again."""
        self._given.clear()


def ttls_ms_of(entry: StoredEntry) -> list[int]:
    """Each message's own time to live, 0 for none; none for texts that cannot be read: whoever
    receives the entry is told."""
    try:
        _, batch = parse_prefix(entry.body)
        view = EntryView(batch, verify=False)
        return [view.expires_after_ms(index) for index in range(entry.count)]
    except InvalidFrame:
        return [0] * entry.count
