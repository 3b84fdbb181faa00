"""The way of one subscription's messages to one other topic: planned, published, acknowledged,
one parcel at a time.

A parcel is one batch, stored wholly or not at all. Which messages it holds, and under which
sequence ids, is durable in the state ledger before it is sent; so whoever serves the topic next
takes the producer's name over, reads its last sequence id, and knows whether they arrived: no
message is lost, and none is written twice by a crash. A former owner cannot write the plan, and
so sends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Protocol

from broker.conversation import MessagePosition
from broker.cursor import Cursor
from broker.forwarding.byte_budget import ByteBudget
from broker.forwarding.copies import Labels, copy_of, encode_copies, opened
from broker.forwarding.parcel import Given, OnDone, OnSettled, Parcel, Piece, Waiting
from broker.forwarding.partitions import PartitionRoutes
from broker.forwarding.port import Forwarder, Outlet
from broker.state_records import ForwardPlanned
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

MAX_PRODUCER_NAME_BYTES = 512

_log = logging.getLogger(__name__)

UNREADABLE = (CorruptRecord, InvalidFrame, NotSupported)
"""A message that cannot be copied, as opposed to a topic that cannot be reached."""

GONE = (TopicNotFound, ResourceNotFound, InvalidTopicName, TopicTerminated, Unauthorized)
"""A topic that will not tell what it has."""


@dataclass(slots=True)
class ForwardCounters:
    """What a broker forwarded, for the metrics."""

    forwarded_messages: int = 0
    forward_failures: int = 0


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Named bounds of one lane."""

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
    forward_plans: dict[str, ForwardPlanned]
    """By target: what is on its way, of which only the target knows whether it has it."""

    @property
    def topic_name(self) -> str: ...

    async def write(self, record: ForwardPlanned) -> None:
        """Returns once the record is durable; raises what prevents it."""

    def acknowledge(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None: ...


class EntrySource(Protocol):
    """Where entries are read again."""

    async def entry_at(self, ledger_id: int, entry_id: int) -> StoredEntry: ...


@dataclass(frozen=True, slots=True)
class LaneOffice:
    """What the lanes of one broker share."""

    forwarder: Forwarder
    budget: ByteBudget
    clock: Clock
    random: Random
    counters: ForwardCounters
    limits: LaneLimits


class ForwardLane:
    """Its task ends when there is nothing to do."""

    def __init__(
        self, host: LaneHost, target: str, entries: EntrySource, office: LaneOffice,
    ) -> None:
        limits = office.limits
        self._host = host
        self.target = target
        self._entries = entries
        self._office = office
        self._clock = office.clock
        self._limits = limits
        self.in_trouble: Callable[[], None] = lambda: None
        """Called after each failure."""
        self.keep_for = ""
        """A subscription that is made at the target before the first message ever goes there."""
        self.routes: PartitionRoutes | None = None
        """By these the messages go on to the lanes of the target's partitions, if it has any."""
        self._backoff = Backoff(office.random, limits.retry_first_s, limits.retry_most_s)
        self._aside_backoff = Backoff(office.random, limits.retry_first_s, limits.retry_most_s)
        self._aside_due_s = 0.0
        self._waiting = Waiting()
        self._kept_bytes = 0
        self._sending = 0
        self._outlet: Outlet | None = None
        self._released = False
        """The last outlet was given back in good order, and is still this lane's."""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._never_tells = False
        """The target is gone, and with it the fate of the plan."""
        self.problem: str | None = None
        """Why the newest attempt failed; None while all goes well."""
        self.problem_aside: str | None = None
        """Why messages are set aside; None while none is."""

    @property
    def waiting_messages(self) -> int:
        """Given, and not yet durable in the target."""
        return self._waiting.messages + self._sending

    @property
    def messages_aside(self) -> int:
        """Those among them that cannot be sent as things are, though others can."""
        return self._waiting.messages_aside

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is on its way."""
        return self._task is None or self._task.done()

    @property
    def plan(self) -> ForwardPlanned | None:
        """The parcel whose fate is not known."""
        return self._host.forward_plans.get(self.target)

    def give(
        self, entry: StoredEntry, mask: int, labels: Labels, on_settled: OnSettled
    ) -> None:
        """Send the messages `mask` of an entry, then acknowledge them, then tell `on_settled`.

        What cannot be sent is tried for as long as the lane is open."""
        keep = self._kept_bytes + len(entry.body) <= self._limits.kept_bytes
        if keep:
            self._kept_bytes += len(entry.body)
        given = Given(entry, mask, labels, on_settled, self._host.epoch, keep=keep)
        self.add([Piece(given, mask)])

    def add(self, pieces: Sequence[Piece]) -> None:
        """What was given to another lane."""
        for piece in pieces:
            self._waiting.add(piece)
        self.resume()

    def take_all(self) -> list[Piece]:
        """What waits is another lane's from now on, except what may be on its way, unless the
        target will never tell."""
        plan = self.plan
        if plan is not None:
            if not self._never_tells:
                return []
            self._give_plan_up(plan)
        taken = self._waiting.take_all()
        for piece in taken:
            self._forget(piece.given)
        self.problem = self.problem_aside = None
        return taken

    def resume(self) -> None:
        """Work, if there is work: something waits, or a plan of before is to be looked after."""
        self._news.set()
        if not self._closed and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name=f"lane from {self._host.name} to {self.target}")

    def close(self) -> None:
        """Stop at once; what is on its way is found again by whoever serves the topic next."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting or self._waiting.messages_aside or self.plan is not None:
                await self._attempt()
            self.problem = self.problem_aside = None
        finally:
            if self._outlet is not None:
                outlet, self._outlet, self._released = self._outlet, None, True
                outlet.release()

    async def _attempt(self) -> None:
        try:
            await self._round()
        except Exception as error:
            if not isinstance(error, MagnetarError):
                _log.exception("the lane to %s failed", self.target)
            self._drop_outlet()
            self._office.counters.forward_failures += 1
            problem = f"cannot publish to {self.target}: {error}"
            if problem != self.problem:
                _log.warning("%s, %s: %s", self._host.topic_name, self._host.name, problem)
            self.problem = problem
            self.in_trouble()
            await self._clock.sleep(self._backoff.next_s())
        except BaseException:
            self._drop_outlet()
            raise
        else:
            self.problem = None
            self._backoff.reset()

    def _drop_outlet(self) -> None:
        self._released = False
        if self._outlet is not None:
            outlet, self._outlet = self._outlet, None
            outlet.discard()

    # --- one parcel

    async def _round(self) -> None:
        plan = self.plan
        if plan is not None:
            await self._look_after(plan)
        if self._waiting.messages_aside and self._clock.monotonic_s() >= self._aside_due_s:
            self._drop_outlet()  # the next one knows the topic's limits as they are now
            self._waiting.try_aside_again()
            self.problem_aside = None
        if not self._waiting:
            await self._until_news_or_aside_due()
            return
        if self.routes is not None and (partitions := await self.routes.count()):
            await self._spread(self.routes, partitions)
            return
        outlet = await self._open()
        if not self._waiting:
            return  # taken by another lane meanwhile
        size_bytes = max(self._limits.parcel_bytes, self._waiting.first_bytes)
        async with self._office.budget.claim(size_bytes):
            parcel = await self._collect()
            self._sending = len(parcel.copies)
            try:
                if parcel.copies:
                    await self._send(outlet, parcel)
            except BaseException:
                self._waiting.put_back(parcel.pieces)
                raise
            finally:
                self._sending = 0

    async def _open(self) -> Outlet:
        if self._outlet is None:
            # Only an outlet of this lane's own, which ended well, knows the last sequence id.
            fresh = not self._released or self.plan is not None
            self._outlet = await self._office.forwarder.open(
                self.target, producer_name(self._host.topic_name, self._host.name), fresh=fresh)
            if self.keep_for and self._outlet.last_sequence_id < 0:
                await self._office.forwarder.keep(self.target, self.keep_for)
        return self._outlet

    async def _look_after(self, plan: ForwardPlanned) -> None:
        """Did a parcel arrive whose fate is not known? Then its messages are acknowledged."""
        try:
            outlet = await self._open()
        except GONE as error:
            if self._waiting and not isinstance(error, TopicNotFound):
                self._never_tells = True
                raise
            self._give_plan_up(plan)
            return
        self._never_tells = False
        if self.plan is not plan:
            return  # a seek came between
        if outlet.last_sequence_id >= plan.first_sequence_id + plan.count - 1:
            await self._acknowledge(plan)
            self._office.counters.forwarded_messages += plan.count
        self._settle_plan(plan)

    def _give_plan_up(self, plan: ForwardPlanned) -> None:
        _log.warning(
            "%s, %s: %s does not tell whether it has %d messages, which may be sent again",
            self._host.topic_name, self._host.name, self.target, plan.count)
        self._settle_plan(plan)

    def _settle_plan(self, plan: ForwardPlanned) -> None:
        if self.plan is plan:
            del self._host.forward_plans[self.target]

    async def _spread(self, routes: PartitionRoutes, partitions: int) -> None:
        """Hand what waits to the lanes of the target's partitions."""
        while self._waiting:
            piece = self._waiting.pop()
            given, left = piece.given, self._unacknowledged(piece)
            if not left:
                continue
            try:
                entry = given.body or await self._entries.entry_at(given.ledger_id, given.entry_id)
                masks = routes.split(opened(entry), entry, left, partitions)
            except UNREADABLE as error:
                self._set_aside(piece, None, error)
                continue
            except BaseException:
                self._waiting.put_back([piece])
                raise
            self._forget(given)
            for target, mask in masks.items():
                routes.pass_on(target, Piece(given, mask))

    async def _until_news_or_aside_due(self) -> None:
        self._news.clear()
        left_s = self._aside_due_s - self._clock.monotonic_s()
        if self._waiting.messages_aside and left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._news.wait()

    async def _send(self, outlet: Outlet, parcel: Parcel) -> None:
        name = producer_name(self._host.topic_name, self._host.name)
        first = outlet.last_sequence_id + 1
        batch = encode_copies(name, first, parcel.copies, self._clock.wall_ms())
        while len(batch) > outlet.max_batch_bytes:
            if len(parcel.copies) == 1:
                [piece] = parcel.pieces
                parcel.pieces = []
                self._set_aside(piece, parcel.copies[0].key, MessageTooLarge(
                    f"{len(batch)} bytes; {self.target} allows {outlet.max_batch_bytes}:"
                    " raise its max_message_size_bytes"
                ))
                return
            self._waiting.put_back(parcel.cut())
            batch = encode_copies(name, first, parcel.copies, self._clock.wall_ms())
        epoch = self._host.epoch
        plan = ForwardPlanned(self._host.name, self.target, first, parcel.parts)
        self._host.forward_plans[self.target] = plan
        if self._host.durable:
            await self._host.write(plan)
        try:
            await outlet.publish(batch)
        except TopicTerminated:
            self._settle_plan(plan)  # refused for good, and there is nobody to ask later
            raise
        self._office.counters.forwarded_messages += plan.count
        if epoch == self._host.epoch:
            await self._acknowledge(plan)
        self._settle_plan(plan)
        sent, parcel.pieces = parcel.pieces, []
        for piece in sent:
            self._settle(piece.given, piece.mask)

    async def _acknowledge(self, plan: ForwardPlanned) -> None:
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def acknowledged(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self._host.acknowledge(
            [MessagePosition(part.ledger_id, part.entry_id, batch_mask=part.mask)
             for part in plan.parts], None, acknowledged)
        error = await done
        if error is not None:
            raise error

    # --- collecting

    async def _collect(self) -> Parcel:
        """Copies of what waits, up to the limits of a parcel; skips what is acknowledged. What
        was given twice, such as what failed too often and then expired, is copied once."""
        parcel, twice = Parcel(), []
        try:
            while self._waiting and not self._full(parcel):
                piece = self._waiting.pop()
                given, left = piece.given, self._unacknowledged(piece)
                if there := left & parcel.mask_of(given):
                    twice.append(Piece(given, there))
                    left ^= there
                if left:
                    await self._copy(Piece(given, left), parcel)
        except BaseException:
            self._waiting.put_back(parcel.pieces)
            raise
        finally:
            self._waiting.put_back(twice)
        return parcel

    def _full(self, parcel: Parcel) -> bool:
        return (
            len(parcel.copies) >= self._limits.parcel_messages
            or parcel.size_bytes >= self._limits.parcel_bytes
        )

    def _unacknowledged(self, piece: Piece) -> int:
        """What of a piece is still to be sent: others may have acknowledged some, or sought."""
        given, cursor = piece.given, self._host.cursor
        if given.epoch != self._host.epoch or given.labels.withdrawn:
            self._forget(given)
            return 0
        done = piece.mask & cursor.mask(given.first_ordinal, given.count)
        if done:
            self._settle(given, done)
        return piece.mask & ~done

    async def _copy(self, piece: Piece, parcel: Parcel) -> None:
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
                else:
                    parcel.add(one, copy_of(view, entry, index, given.labels))
            except UNREADABLE as error:
                self._set_aside(one, _key_of(view, index), error)

    def _set_aside(self, piece: Piece, key: str | None, error: MagnetarError) -> None:
        self._waiting.set_aside(piece, key)
        self._office.counters.forward_failures += 1
        given = piece.given
        problem = f"{given.ledger_id}:{given.entry_id} cannot go to {self.target}: {error}"
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
        """Its entry is not kept here any more."""
        if given.body is not None:
            self._kept_bytes -= len(given.body.body)
            given.body = None


def producer_name(topic: str, subscription: str) -> str:
    """The name under which a subscription's messages go to other topics; nobody else's."""
    name = f"from {topic} by {subscription!r}"
    if len(name.encode()) <= MAX_PRODUCER_NAME_BYTES:
        return name
    return f"from {blake2b(name.encode(), digest_size=16).hexdigest()}"


def _key_of(view: EntryView, index: int) -> str | None:
    """The key of a message that does not read, if that does."""
    with contextlib.suppress(InvalidFrame):
        return view.key(index)
    return None
