"""The way of one subscription's dead letters: planned, published, acknowledged, one parcel at a
time.

A parcel is one batch, stored wholly or not at all. Which messages it holds, and under which
sequence ids, is durable in the state ledger before it is sent; so whoever serves the topic next
takes the producer's name over, reads its last sequence id, and knows whether they arrived: no
dead letter is lost, and none is written twice by a crash. A former owner cannot write the plan,
and so sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import Protocol

from broker.conversation import MessagePosition
from broker.cursor import Cursor
from broker.dead_letter_copy import Copy, Origin, copy_of, encode_copies, opened
from broker.dead_letter_parcel import Given, OnDone, Piece, Waiting
from broker.forwarding.byte_budget import ByteBudget
from broker.forwarding.port import Forwarder, Outlet
from broker.state_records import DeadLettersPlanned, PlannedPart
from broker.stored_entry import StoredEntry
from magnetar.backoff import Backoff
from magnetar.entry import EntryView, indexes_of
from magnetar.errors import (
    CorruptRecord,
    InvalidFrame,
    InvalidTopicName,
    MagnetarError,
    MessageTooLarge,
    NotSupported,
    ResourceNotFound,
    TopicNotFound,
    TopicTerminated,
    Unauthorized,
)
from magnetar.runtime.clock import Clock
from magnetar.topic import TopicName

PRODUCER_PREFIX = "dead-letters "
MAX_PRODUCER_NAME_BYTES = 512

_log = logging.getLogger(__name__)

UNREADABLE = (CorruptRecord, InvalidFrame, NotSupported)
"""A message that cannot be copied, as opposed to a topic that cannot be reached."""

GONE = (TopicNotFound, ResourceNotFound, InvalidTopicName, TopicTerminated, Unauthorized)
"""A topic that will not tell what it has."""


@dataclass(slots=True)
class DeadLetterCounters:
    """What a broker did with messages that were given up, for the metrics."""

    dead_lettered_messages: int = 0
    dead_letter_failures: int = 0


@dataclass(frozen=True, slots=True)
class DeadLetterLimits:
    """Named bounds of one subscription's lane."""

    parcel_bytes: int = 256 * 1024
    """Payloads in one parcel; a larger message goes alone."""
    parcel_messages: int = 1_000
    kept_bytes: int = 1 << 20
    """Entries kept in memory while they wait; what is above is read again at its turn."""
    retry_first_s: float = 1.0
    retry_most_s: float = 60.0


class LaneHost(Protocol):
    """What a lane needs of its subscription."""

    name: str
    durable: bool
    cursor: Cursor
    epoch: int
    dead_letter_plan: DeadLettersPlanned | None

    @property
    def topic_name(self) -> str: ...

    @property
    def dead_letter_target(self) -> str:
        """The dead-letter topic's full name; it may change."""

    async def write(self, record: DeadLettersPlanned) -> None:
        """Returns once the record is durable; raises what prevents it."""

    def acknowledge(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None: ...


class EntrySource(Protocol):
    """Where entries are read again."""

    async def entry_at(self, ledger_id: int, entry_id: int) -> StoredEntry: ...


@dataclass(slots=True)
class _Parcel:
    """Pieces with their copies, in the order in which they are sent."""

    pieces: list[Piece] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, piece: Piece, copy: Copy) -> None:
        self.pieces.append(piece)
        self.copies.append(copy)
        self.size_bytes += copy.size_bytes

    def cut(self) -> list[Piece]:
        """Keep the first half; answers with the other."""
        middle = len(self.copies) // 2
        rest = self.pieces[middle:]
        del self.pieces[middle:], self.copies[middle:]
        return rest


class DeadLetterLane:
    """One for each subscription that has something to give up. Its task ends when it has not."""

    def __init__(
        self, host: LaneHost, entries: EntrySource, forwarder: Forwarder, budget: ByteBudget,
        clock: Clock, random: Random, counters: DeadLetterCounters, limits: DeadLetterLimits,
    ) -> None:
        self._host = host
        self._entries = entries
        self._forwarder = forwarder
        self._budget = budget
        self._clock = clock
        self._counters = counters
        self._limits = limits
        self._backoff = Backoff(random, limits.retry_first_s, limits.retry_most_s)
        self._aside_backoff = Backoff(random, limits.retry_first_s, limits.retry_most_s)
        self._aside_due_s = 0.0
        self._waiting = Waiting()
        self._kept_bytes = 0
        self._sending = 0
        self._outlet: tuple[str, Outlet] | None = None
        self._released: str | None = None
        """The target whose outlet this lane gave back in good order."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.problem: str | None = None
        """Why the newest attempt failed; None while all goes well."""
        self.problem_aside: str | None = None
        """Why messages are set aside; None while none is."""

    @property
    def waiting_messages(self) -> int:
        """Given up, and not yet durable in the dead-letter topic."""
        return self._waiting.messages + self._sending

    @property
    def messages_aside(self) -> int:
        """Those among them that cannot be sent as things are, though others can."""
        return self._waiting.messages_aside

    def give(
        self, entry: StoredEntry, mask: int, attempts: int, reason: str, done: OnDone
    ) -> None:
        """See `DeadLetters.give`."""
        keep = self._kept_bytes + len(entry.body) <= self._limits.kept_bytes
        if keep:
            self._kept_bytes += len(entry.body)
        given = Given(entry, mask, attempts, reason, done, self._host.epoch, keep=keep)
        self._waiting.add(Piece(given, mask))
        self.resume()

    def resume(self) -> None:
        """Work, if there is work: something waits, or a plan of before is to be looked after."""
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"dead letters of {self._host.name}")

    def close(self) -> None:
        """Stop at once; what is on its way is found again by whoever serves the topic next."""
        if self._task is not None:
            self._task.cancel()
        self._waiting.clear()

    async def _run(self) -> None:
        try:
            while self._waiting or self._waiting.messages_aside or self._plan is not None:
                await self._attempt()
        finally:
            self._release_outlet()

    async def _attempt(self) -> None:
        try:
            await self._round()
        except Exception as error:
            if not isinstance(error, MagnetarError):
                _log.exception("dead letters of %s failed", self._host.name)
            self._drop_outlet()
            self._counters.dead_letter_failures += 1
            self._tell(f"cannot publish to {self._host.dead_letter_target}: {error}")
            await self._clock.sleep(self._backoff.next_s())
        except BaseException:
            self._drop_outlet()
            raise
        else:
            self.problem = None
            self._backoff.reset()

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("dead letters of %s, %s: %s", self._host.topic_name, self._host.name,
                         problem)
        self.problem = problem

    @property
    def _plan(self) -> DeadLettersPlanned | None:
        return self._host.dead_letter_plan

    def _release_outlet(self) -> None:
        if self._outlet is not None:
            (self._released, outlet), self._outlet = self._outlet, None
            outlet.release()

    def _drop_outlet(self) -> None:
        self._released = None
        if self._outlet is not None:
            (_, outlet), self._outlet = self._outlet, None
            outlet.discard()

    # --- one parcel

    async def _round(self) -> None:
        if self._plan is not None:
            await self._look_after_plan(self._plan)
        if self._waiting.messages_aside and self._clock.monotonic_s() >= self._aside_due_s:
            self._drop_outlet()  # the next one knows the topic's limits as they are now
            self._waiting.try_aside_again()
            self.problem_aside = None
        if not self._waiting:
            await self._until_news_or_aside_due()
            return
        target = self._host.dead_letter_target
        outlet = await self._open(target)
        async with self._budget.claim(
            max(self._limits.parcel_bytes, self._waiting.first_bytes)
        ):
            parcel = await self._collect()
            if parcel.copies:
                self._sending = len(parcel.copies)
                try:
                    await self._send(target, outlet, parcel)
                except BaseException:
                    self._waiting.put_back(parcel.pieces)
                    raise
                finally:
                    self._sending = 0

    async def _open(self, target: str) -> Outlet:
        if self._outlet is not None and self._outlet[0] == target:
            return self._outlet[1]
        self._release_outlet()
        # Only an outlet of this lane's own, which ended well, knows the last sequence id.
        fresh = self._released != target or self._plan is not None
        outlet = await self._forwarder.open(
            target, producer_name(self._host.topic_name, self._host.name), fresh=fresh)
        self._outlet = (target, outlet)
        return outlet

    async def _look_after_plan(self, plan: DeadLettersPlanned) -> None:
        """Did a parcel arrive whose fate is not known? Then its messages are acknowledged."""
        try:
            outlet = await self._open(plan.target)
        except GONE as error:
            if plan.target == self._host.dead_letter_target and not isinstance(
                error, TopicNotFound
            ):
                raise
            _log.warning("%s does not tell whether it has %d dead letters; they are sent to %s: %s",
                         plan.target, plan.count, self._host.dead_letter_target, error)
            self._host.dead_letter_plan = None
            return
        if self._host.dead_letter_plan is not plan:
            return  # a seek came between
        if outlet.last_sequence_id >= plan.first_sequence_id + plan.count - 1:
            await self._acknowledge([
                MessagePosition(part.ledger_id, part.entry_id, batch_mask=part.mask)
                for part in plan.parts
            ])
            self._counters.dead_lettered_messages += plan.count
        if self._host.dead_letter_plan is plan:
            self._host.dead_letter_plan = None

    async def _until_news_or_aside_due(self) -> None:
        self._news.clear()
        left_s = self._aside_due_s - self._clock.monotonic_s()
        if self._waiting.messages_aside and left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._news.wait()

    async def _send(self, target: str, outlet: Outlet, parcel: _Parcel) -> None:
        name = producer_name(self._host.topic_name, self._host.name)
        first = outlet.last_sequence_id + 1
        batch = encode_copies(name, first, parcel.copies, self._clock.wall_ms())
        while len(batch) > outlet.max_batch_bytes:
            if len(parcel.copies) == 1:
                self._set_aside(parcel.pieces[0], parcel.copies[0].key, MessageTooLarge(
                    f"{len(batch)} bytes; {target} allows {outlet.max_batch_bytes}:"
                    " raise its max_message_size_bytes"
                ))
                parcel.pieces.clear()
                return
            self._waiting.put_back(parcel.cut())
            batch = encode_copies(name, first, parcel.copies, self._clock.wall_ms())
        plan = DeadLettersPlanned(self._host.name, target, first, _parts(parcel.pieces))
        epoch = self._host.epoch
        self._host.dead_letter_plan = plan
        if self._host.durable:
            await self._host.write(plan)
        await outlet.publish(batch)
        self._counters.dead_lettered_messages += plan.count
        sent, parcel.pieces = parcel.pieces, []
        if epoch == self._host.epoch:
            await self._acknowledge([
                MessagePosition(part.ledger_id, part.entry_id, batch_mask=part.mask)
                for part in plan.parts
            ])
        if self._host.dead_letter_plan is plan:
            self._host.dead_letter_plan = None
        for piece in sent:
            self._settle(piece.given, piece.mask)

    async def _acknowledge(self, positions: Sequence[MessagePosition]) -> None:
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def acknowledged(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self._host.acknowledge(positions, None, acknowledged)
        error = await done
        if error is not None:
            raise error

    # --- collecting

    async def _collect(self) -> _Parcel:
        """Copies of what waits, up to the limits of a parcel; skips what is acknowledged."""
        parcel = _Parcel()
        try:
            while self._waiting and not self._full(parcel):
                piece = self._waiting.pop()
                left = self._unacknowledged(piece)
                if left:
                    await self._copy(Piece(piece.given, left), parcel)
        except BaseException:
            self._waiting.put_back(parcel.pieces)
            raise
        return parcel

    def _full(self, parcel: _Parcel) -> bool:
        return (
            len(parcel.copies) >= self._limits.parcel_messages
            or parcel.size_bytes >= self._limits.parcel_bytes
        )

    def _unacknowledged(self, piece: Piece) -> int:
        """What of a piece is still to be sent: others may have acknowledged some, or sought."""
        given, cursor = piece.given, self._host.cursor
        if given.epoch != self._host.epoch:
            self._forget(given)
            return 0
        done = piece.mask & cursor.mask(given.first_ordinal, given.count)
        if done:
            self._settle(given, done)
        return piece.mask & ~done

    async def _copy(self, piece: Piece, parcel: _Parcel) -> None:
        """Copies of a piece's messages into the parcel; what does not fit is put back."""
        given = piece.given
        try:
            entry = given.body or await self._entries.entry_at(given.ledger_id, given.entry_id)
            view = opened(entry)
        except UNREADABLE as error:
            self._set_aside(piece, None, error)
            return
        except BaseException:
            self._waiting.put_back([piece])
            raise
        topic = TopicName.parse(self._host.topic_name)
        origin = Origin(topic.full, topic.partition, self._host.name)
        rest = piece.mask
        for index in indexes_of(piece.mask):
            if self._full(parcel):
                self._waiting.put_back([Piece(given, rest)])
                return
            one = Piece(given, 1 << index)
            rest &= ~one.mask
            try:
                key = view.key(index)
                if self._waiting.holds(key):
                    self._waiting.set_aside(one, key)
                    continue
                copy = copy_of(
                    view, entry, index, origin, given.attempts, given.reason,
                    self._clock.wall_ms())
            except UNREADABLE as error:
                self._set_aside(one, _key_of(view, index), error)
            else:
                parcel.add(one, copy)

    def _set_aside(self, piece: Piece, key: str | None, error: MagnetarError) -> None:
        self._waiting.set_aside(piece, key)
        self._counters.dead_letter_failures += 1
        given = piece.given
        problem = f"{given.ledger_id}:{given.entry_id} cannot become a dead letter: {error}"
        if self.problem_aside != problem:
            _log.warning("%s, %s: %s", self._host.topic_name, self._host.name, problem)
        self.problem_aside = problem
        self._aside_due_s = self._clock.monotonic_s() + self._aside_backoff.next_s()

    def _settle(self, given: Given, mask: int) -> None:
        body = given.body
        given.settle(mask)
        if body is not None and given.body is None:
            self._kept_bytes -= len(body.body)

    def _forget(self, given: Given) -> None:
        if given.body is not None:
            self._kept_bytes -= len(given.body.body)
            given.body = None


def producer_name(topic: str, subscription: str) -> str:
    """The name that dead letters of a subscription go out under; nobody else's."""
    name = f"{PRODUCER_PREFIX}{topic} {subscription}"
    if len(name.encode()) <= MAX_PRODUCER_NAME_BYTES:
        return name
    digest = blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{PRODUCER_PREFIX}{digest}"


def _parts(pieces: Sequence[Piece]) -> tuple[PlannedPart, ...]:
    masks: dict[tuple[int, int], int] = {}
    for piece in pieces:
        key = (piece.given.ledger_id, piece.given.entry_id)
        masks[key] = masks.get(key, 0) | piece.mask
    return tuple(PlannedPart(*key, mask) for key, mask in masks.items())


def _key_of(view: EntryView, index: int) -> str | None:
    """The key of a message that does not read, if that does."""
    with contextlib.suppress(InvalidFrame):
        return view.key(index)
    return None
