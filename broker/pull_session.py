"""One puller of a subscription: a consumer that has permits only while somebody waits for an
answer, and leases on what it handed out.

A lease ends by being settled, or by time: then the messages are delivered again, counted, to
whoever comes. What was collected for a call that nobody waits for any more goes back uncounted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.consumer_session import ConsumerSession
from broker.conversation import Delivery, MessagePosition
from broker.pull_trim import keep_bytes, meant_mask, meant_position
from magnetar.errors import AlreadyClosed, InvalidArgument, MagnetarError
from magnetar.runtime.clock import Clock

Key = tuple[int, int]

CROWDED = 1 << 62
"""As a backlog in bytes: nothing more is to be sent."""

LEASE_OVER = "not settled within its lease"

READING_S = 0.05
"""A call that does not want to wait waits so long, at most, for messages to be read from the
bookies."""


@dataclass(frozen=True, slots=True)
class PullRequest:
    """What one call asks for."""

    max_messages: int
    max_bytes: int
    wait_s: float
    lease_s: float


@dataclass(slots=True)
class Lease:
    """Messages of one entry that are out until `ends_s`, on the monotonic clock."""

    mask: int
    ends_s: float


class PullSession:
    """`leased` is told of every new lease: the entry's key and when it ends."""

    def __init__(self, clock: Clock, leased: Callable[[PullSession, Key, float], None]) -> None:
        self._clock = clock
        self._leased = leased
        self._consumer: ConsumerSession | None = None
        self._turn = asyncio.Lock()
        self._collected: list[Delivery] = []
        self._collected_bytes = 0
        self._most_bytes = 0
        self._arrived: asyncio.Future[None] | None = None
        self._leases: dict[Key, list[Lease]] = {}
        self._epoch = 0
        self._ended: MagnetarError | None = None
        self.calls = 0
        """Waiting, or at work."""
        self.last_used_s = clock.monotonic_s()

    # --- towards the subscription

    def attached(self, consumer: ConsumerSession) -> None:
        """The consumer whose `deliver`, `ended` and `backlog_bytes` are this session's."""
        consumer.exact = True
        self._consumer = consumer

    def deliver(self, deliveries: list[Delivery]) -> None:
        """The dispatcher has chosen these for it."""
        if deliveries[-1].epoch != self._epoch:
            # A seek: whatever went out before it is out no more.
            self._epoch = deliveries[-1].epoch
            self._take()
            self._leases.clear()
        self._collected += deliveries
        self._collected_bytes += sum(len(one.entry) for one in deliveries)
        self._answer(None)

    def backlog_bytes(self) -> int:
        """Above every limit once the answer is full."""
        coming = 0 if self._consumer is None else self._consumer.outgoing_bytes
        return CROWDED if self._collected_bytes + coming >= self._most_bytes else 0

    def ended(self, error: MagnetarError) -> None:
        """The topic is served here no more, or the subscription is gone."""
        self._ended = error
        self._leases.clear()
        self._answer(error)

    def _answer(self, error: MagnetarError | None) -> None:
        if self._arrived is not None and not self._arrived.done():
            if error is None:
                self._arrived.set_result(None)
            else:
                self._arrived.set_exception(error)

    @property
    def closed(self) -> bool:
        return self._ended is not None

    @property
    def idle(self) -> bool:
        """Nobody waits, and nothing is out."""
        return not self.calls and not self._leases

    @property
    def leased_entries(self) -> int:
        """Entries of which something is out."""
        return len(self._leases)

    def holds(self, key: Key, ends_s: float) -> bool:
        """Something of this entry is out until then."""
        return any(lease.ends_s == ends_s for lease in self._leases.get(key, ()))

    def close(self) -> None:
        """The puller leaves: what is out goes back uncounted."""
        if self._ended is not None:
            return
        consumer = self._attached()
        for key, leases in self._leases.items():
            consumer.give_back([position_of(key, lease.mask) for lease in leases])
        self.ended(AlreadyClosed("the puller's session ended; pull again to begin another"))
        consumer.close()

    def _attached(self) -> ConsumerSession:
        if self._ended is not None:
            raise self._ended
        assert self._consumer is not None, "used before it was attached"
        return self._consumer

    # --- towards the puller

    async def receive(self, request: PullRequest) -> list[Delivery]:
        """At most so many messages, waiting for the first; raises what ended the session."""
        deadline_s = self._clock.monotonic_s() + request.wait_s
        self.calls += 1
        try:
            try:
                async with asyncio.timeout(request.wait_s):
                    await self._turn.acquire()
            except TimeoutError:
                return []  # others of the same name waited for all that time
            try:
                return await self._receive(request, deadline_s)
            finally:
                self._turn.release()
        finally:
            self.calls -= 1
            self.last_used_s = self._clock.monotonic_s()

    async def _receive(self, request: PullRequest, deadline_s: float) -> list[Delivery]:
        consumer = self._attached()
        self._most_bytes = request.max_bytes
        self._arrived = asyncio.get_running_loop().create_future()
        try:
            consumer.add_permits(request.max_messages)
            left_s = deadline_s - self._clock.monotonic_s()
            least_s = READING_S if consumer.backlog_messages else 0.0
            try:
                async with asyncio.timeout(max(left_s, least_s)):
                    await self._arrived
            except TimeoutError:
                pass  # something may have come all the same
        except BaseException:
            consumer.give_back([meant_position(one) for one in self._take()])
            raise
        finally:
            self._arrived = None
            self._most_bytes = 0
            consumer.permits = 0
        kept, rest = keep_bytes(self._take(), request.max_bytes)
        consumer.give_back(rest)
        for delivery in kept:
            self._hold((delivery.ledger_id, delivery.entry_id), meant_mask(delivery),
                       request.lease_s)
        return kept

    def _take(self) -> list[Delivery]:
        taken, self._collected, self._collected_bytes = self._collected, [], 0
        return taken

    def unanswered(self, deliveries: Sequence[Delivery]) -> None:
        """Nobody took the answer: its messages go back uncounted."""
        if self._ended is None:
            positions = [meant_position(one) for one in deliveries]
            self.settled(positions)
            self._attached().give_back(positions)

    # --- leases

    def _hold(self, key: Key, mask: int, lease_s: float) -> None:
        """These are out for so long."""
        ends_s = self._clock.monotonic_s() + lease_s
        self._leases.setdefault(key, []).append(Lease(mask, ends_s))
        self._leased(self, key, ends_s)

    def settled(self, positions: Sequence[MessagePosition]) -> None:
        """These leases are over: acknowledged, or given back."""
        self.last_used_s = self._clock.monotonic_s()
        for position in positions:
            self._cut((position.ledger_id, position.entry_id), bits_of(position))

    def give_back(self, positions: Sequence[MessagePosition]) -> None:
        """Deliver those of these that are out again, uncounted."""
        given = self._cut_all(positions)
        if given:
            self._attached().give_back(given)

    def fail(
        self, positions: Sequence[MessagePosition], delay_ms: int = 0, reason: str = ""
    ) -> None:
        """Deliver those of these that are out again after a delay, counted."""
        failed = self._cut_all(positions)
        if failed:
            self._attached().negative(failed, delay_ms, reason)

    def _cut_all(self, positions: Sequence[MessagePosition]) -> list[MessagePosition]:
        self.last_used_s = self._clock.monotonic_s()
        cut = []
        for position in positions:
            key = (position.ledger_id, position.entry_id)
            mask = self._cut(key, bits_of(position))
            if mask:
                cut.append(position_of(key, mask))
        return cut

    def settled_through(self, position: MessagePosition) -> None:
        """As `settled`, for everything up to and with a message."""
        key = (position.ledger_id, position.entry_id)
        for earlier in [one for one in self._leases if one < key]:
            del self._leases[earlier]
        self._cut(key, -1 if bits_of(position) == -1 else (1 << bits_of(position).bit_length()) - 1)

    def extend(self, positions: Sequence[MessagePosition], lease_s: float) -> None:
        """Begin these leases anew; raises InvalidArgument, having done nothing, when one is not
        this session's any more."""
        self.last_used_s = self._clock.monotonic_s()
        for position in positions:
            held = 0
            for lease in self._leases.get((position.ledger_id, position.entry_id), ()):
                held |= lease.mask
            wanted = bits_of(position)
            if not held or (wanted != -1 and wanted & ~held):
                raise InvalidArgument(
                    f"{position.ledger_id}:{position.entry_id}: the lease is over; the message is"
                    " delivered again"
                )
        for position in positions:
            key = (position.ledger_id, position.entry_id)
            self._hold(key, self._cut(key, bits_of(position)), lease_s)

    def _cut(self, key: Key, mask: int) -> int:
        """End the leases of these messages; answers with those that were out."""
        cut, kept = 0, []
        for lease in self._leases.get(key, ()):
            cut |= lease.mask & mask
            lease.mask &= ~mask
            if lease.mask:
                kept.append(lease)
        if kept:
            self._leases[key] = kept
        else:
            self._leases.pop(key, None)
        return cut

    def expire(self, key: Key, now_s: float) -> None:
        """Deliver again what was out for too long."""
        over = [lease for lease in self._leases.get(key, ()) if lease.ends_s <= now_s]
        if over and self._ended is None:
            self.last_used_s = now_s
            positions = [position_of(key, lease.mask) for lease in over]
            self.settled(positions)
            self._attached().negative(positions, reason=LEASE_OVER)


def position_of(key: Key, mask: int) -> MessagePosition:
    """Messages `mask` of an entry."""
    return MessagePosition(*key, batch_mask=mask)


def bits_of(position: MessagePosition) -> int:
    """The messages meant; -1: all, however many they are."""
    if position.batch_mask:
        return position.batch_mask
    return -1 if position.batch_index < 0 else 1 << position.batch_index
