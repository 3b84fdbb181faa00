"""Expires messages that nobody asks for: of subscriptions without consumers, or with stuck ones.

What is delivered is judged at its turn (`broker.expiry`). Here the oldest messages not
acknowledged are looked at from time to time: what the topic's time to live covers is found by
bisection, for times of appends never fall; messages with a time to live of their own are read
from the head of the backlog on, up to the first that may still be delivered, in bounded turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Protocol

from broker.cursor import full_mask
from broker.expiry import Expiry, ExpiryHost
from broker.stored_entry import StoredEntry
from broker.topic_log import TopicLog
from magnetar.entry import indexes_of
from magnetar.runtime.clock import Clock

READS_A_TURN = 64
"""Reads of a backlog in one round of maintenance."""
READ_ENTRIES = 1_000
READ_BYTES = 1 << 20


class BacklogHost(ExpiryHost, Protocol):
    """What this needs of its subscription."""

    @property
    def backlog_messages(self) -> int: ...

    def in_flight_masks(self) -> Mapping[int, int]:
        """What is at consumers: messages of entries, by the entry's first ordinal."""

    def pass_range(self, first: int, end: int) -> None:
        """Messages nobody is to get any more count as acknowledged."""


class BacklogExpiry:
    """Of one subscription."""

    def __init__(self, host: BacklogHost, log: TopicLog, expiry: Expiry, clock: Clock) -> None:
        self._host = host
        self._log = log
        self._expiry = expiry
        self._clock = clock
        self._seen_floor = -1
        self._quiet_until_ms: int | None = 0

    async def run(self) -> None:
        """One round. Raises what reading raises; the next round tries again."""
        host = self._host
        if not host.durable or not host.backlog_messages or self._expiry.full:
            return
        floor = host.cursor.floor
        if floor != self._seen_floor:
            # It moves, so messages get their turns, and are judged there.
            self._seen_floor, self._quiet_until_ms = floor, 0
            return
        now_ms = self._clock.wall_ms()
        if self._quiet_until_ms is None or now_ms < self._quiet_until_ms:
            return
        self._expiry.begin_turn()
        before = host.backlog_messages
        ttl_ms = host.policies.message_ttl_ms
        if ttl_ms and not host.policies.dead_letter_expired:
            await self._expire_until(now_ms - ttl_ms, owed=True)
        await self._read_head()
        if host.backlog_messages < before:
            host.wake()  # what expired may have counted as delivered

    async def expire_older_than(self, age_ms: int) -> int:
        """Give up what was appended longer ago, but for what is at consumers; answers how many
        messages. None of them goes to the dead-letter topic."""
        self._expiry.begin_turn()
        before = self._host.backlog_messages
        await self._expire_until(self._clock.wall_ms() - age_ms, owed=False)
        self._host.wake()
        return before - self._host.backlog_messages

    def changed(self) -> None:
        """Policies changed, or what was at consumers came back: look again."""
        self._quiet_until_ms = 0

    async def _expire_until(self, time_ms: int, *, owed: bool) -> None:
        """Give up what was appended at or before this time and is at no consumer; what is `owed`
        to the dead-letter topic is left to it."""
        after = await self._log.before_time(time_ms + 1)
        end = await self._log.ordinal_after(after)
        at = self._host.cursor.floor
        if end <= at:
            return
        before = self._host.backlog_messages
        for first, mask in sorted(self._kept_masks(owed=owed).items()):
            kept_end = first + mask.bit_length()
            if kept_end <= at:
                continue
            if first >= end:
                break
            self._host.pass_range(at, first)
            beside = full_mask(mask.bit_length()) & ~mask & full_mask(end - first)
            for index in indexes_of(beside):
                self._host.pass_range(first + index, first + index + 1)
            at = max(at, min(kept_end, end))
        self._host.pass_range(at, end)
        self._expiry.expired_messages += before - self._host.backlog_messages

    def _kept_masks(self, *, owed: bool) -> dict[int, int]:
        kept = dict(self._host.in_flight_masks())
        others = self._expiry.given_masks()
        for first, mask in chain(others, self._expiry.owed_masks() if owed else ()):
            kept[first] = kept.get(first, 0) | mask
        return kept

    async def _read_head(self) -> None:
        """Judge the oldest messages one by one, up to the first that may still be delivered."""
        floor = self._host.cursor.floor
        if self._host.backlog_messages == 0:
            return
        self._quiet_until_ms = None
        after = await self._log.before_ordinal(floor)
        for _ in range(READS_A_TURN):
            entries = await self._log.read(after, READ_ENTRIES, READ_BYTES)
            if not entries:
                self._quiet_until_ms = 0  # more may come behind what is at consumers
                break
            in_flight = self._host.in_flight_masks()
            for entry in entries:
                if not self._judge(entry, in_flight.get(entry.first_ordinal, 0)):
                    self._seen_floor = self._host.cursor.floor
                    return
            after = entries[-1].position
        else:
            self._quiet_until_ms = 0
        self._seen_floor = self._host.cursor.floor

    def _judge(self, entry: StoredEntry, in_flight: int) -> bool:
        """Expire what has waited too long; False when something of it may still be delivered, or
        so much is on its way to the dead-letter topic that the rest has to wait."""
        mask = full_mask(entry.count)
        mask &= ~self._host.cursor.mask(entry.first_ordinal, entry.count)
        if not mask:
            return True
        if self._expiry.full:
            self._quiet_until_ms = 0
            return False
        live = self._expiry.live(entry, mask & ~in_flight)
        if not self._host.policies.dead_letter_expired:
            live &= ~self._expiry.owed(entry)
        kept = live | (mask & in_flight)
        if kept:
            self._wait_for(self._expiry.due_ms(entry, kept))
        return not live

    def _wait_for(self, due_ms: int | None) -> None:
        """Look again when this expires."""
        if due_ms is not None and (
            self._quiet_until_ms is None or due_ms < self._quiet_until_ms
        ):
            self._quiet_until_ms = due_ms
