"""Acknowledgements of one subscription, and how they become durable.

They change the cursor at once, so that nothing acknowledged is sent again, and are answered when
their delta is on Qa bookies. What comes while a delta is being written goes into the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from broker.conversation import MessagePosition
from broker.cursor import Cursor, OrdinalBitmap, full_mask
from broker.dispatch.flights import Key
from broker.dispatch.returns import Returns
from broker.redelivery import RedeliveryCounts, records_of
from broker.settings import BrokerLimits
from broker.state_records import Acknowledged, StateRecord
from broker.topic_log import TopicLog
from magnetar.errors import InvalidArgument, MagnetarError
from magnetar.runtime.clock import Clock

OnDone = Callable[[MagnetarError | None], None]
"""Called once, with None when the request is done for good."""
Acknowledge = Callable[[int, int, MessagePosition], None]
"""Told of an entry's first ordinal and number of messages; raises InvalidArgument."""


class AcknowledgingHost(Protocol):
    """What is asked of the subscription."""

    name: str
    durable: bool
    epoch: int
    cursor: Cursor
    counts: RedeliveryCounts

    def write_state(
        self, record: StateRecord, on_done: Callable[[MagnetarError | None], None]
    ) -> None: ...

    def position_moved(self) -> None:
        """Durably."""

    def wake(self) -> None:
        """Something may be deliverable that was not."""


class Acknowledging:
    """`durable_floor`: everything below it is acknowledged, and would survive this owner."""

    def __init__(
        self, host: AcknowledgingHost, returns: Returns, log: TopicLog, limits: BrokerLimits,
        clock: Clock, floor: int,
    ) -> None:
        self._host = host
        self._returns = returns
        self._log = log
        self._limits = limits
        self._clock = clock
        self.durable_floor = floor
        self._delta = OrdinalBitmap()
        self._dirty = False
        self._waiting: list[OnDone] = []
        self._writing_since_s: float | None = None
        self._flush_scheduled = False
        self._closed = False
        self._ended_by: MagnetarError | None = None
        """Why nothing becomes durable here any more."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def stalled(self) -> bool:
        """What was acknowledged cannot be made durable, and has been waiting for long."""
        since_s = self._writing_since_s
        return (
            since_s is not None
            and self._clock.monotonic_s() - since_s > self._limits.state_stall_s
        )

    @property
    def _unwritten(self) -> bool:
        """Something changed since the last write."""
        return self._dirty or self._host.counts.changed

    # --- what consumers say

    def acknowledge(
        self, individual: Sequence[MessagePosition], cumulative: MessagePosition | None,
        on_done: OnDone,
    ) -> None:
        """See ConsumerSession.acknowledge."""
        if len(individual) > self._limits.acknowledge_positions:
            on_done(InvalidArgument(
                f"acknowledge at most {self._limits.acknowledge_positions} positions at once"
            ))
            return
        unknown: list[tuple[Acknowledge, MessagePosition]] = []
        wrong: InvalidArgument | None = None
        asked = [(self._acknowledge_one, position) for position in individual]
        if cumulative is not None:
            asked.append((self._acknowledge_through, cumulative))
        for acknowledge, position in asked:
            span = self._returns.span_of((position.ledger_id, position.entry_id))
            if span is None:
                unknown.append((acknowledge, position))
                continue
            try:
                acknowledge(*span, position)
            except InvalidArgument as error:
                wrong = wrong or error
        if unknown:
            self.spawn(self._acknowledge_unknown(unknown, wrong, on_done))
        else:
            self._settle_with(on_done, wrong)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that ends with the subscription."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _acknowledge_unknown(
        self, asked: Sequence[tuple[Acknowledge, MessagePosition]],
        wrong: InvalidArgument | None, on_done: OnDone,
    ) -> None:
        """Positions not in flight here: of an earlier session, or not tracked. A seek that comes
        while they are looked for undoes them."""
        epoch = self._host.epoch
        for acknowledge, position in asked:
            if self._log.was_trimmed(position.ledger_id):
                continue
            try:
                entry = await self._log.entry_at(position.ledger_id, position.entry_id)
                if epoch != self._host.epoch:
                    break
                acknowledge(entry.first_ordinal, entry.count, position)
            except InvalidArgument as error:
                wrong = wrong or error
            except MagnetarError as error:
                self.schedule_flush()
                on_done(error)
                return
        self._settle_with(on_done, wrong)

    def _acknowledge_one(self, first: int, count: int, position: MessagePosition) -> None:
        host, mask = self._host, position.mask_of(count)
        self._dirty = True
        if mask == full_mask(count):
            host.cursor.add_range(first, first + count)
            self._delta.add_range(first, first + count)
            host.counts.forget(first)
        else:
            host.cursor.add_mask(first, mask)
            self._delta.add_mask(first, mask)
            if first in host.counts and host.cursor.mask(first, count) == full_mask(count):
                host.counts.forget(first)
        self._returns.settle((position.ledger_id, position.entry_id), mask)

    def _acknowledge_through(self, first: int, count: int, position: MessagePosition) -> None:
        self._advance(first + position.mask_of(count).bit_length())

    def _advance(self, floor: int) -> None:
        cursor = self._host.cursor
        cursor.advance(floor)
        self._dirty = True
        self._host.counts.forget_below(cursor.floor)
        self._returns.settle_below(floor)

    # --- what nobody is to get any more

    def pass_trimmed(self, first_ordinal: int) -> None:
        """No message below is there any more."""
        if self._host.cursor.floor < first_ordinal:
            self._advance(first_ordinal)
            self.schedule_flush()
            self._host.wake()

    def pass_range(self, first: int, end: int) -> None:
        """Messages nobody is to get any more, such as expired ones; at no consumer."""
        if first < end:
            self._host.cursor.add_range(first, end)
            self._returns.settle_range(first, end)
            self._passed(lambda delta: delta.add_range(first, end))

    def pass_mask(self, key: Key, first: int, count: int, mask: int) -> None:
        """As `pass_range`, of one entry."""
        host = self._host
        if not host.name:
            host.cursor.advance(first)  # so that it holds one entry's bits only
        mask &= ~host.cursor.mask(first, count)
        if mask:
            host.cursor.add_mask(first, mask)
            self._returns.settle(key, mask)
            self._passed(lambda delta: delta.add_mask(first, mask))

    def _passed(self, note: Callable[[OrdinalBitmap], None]) -> None:
        self._host.counts.forget_below(self._host.cursor.floor)
        if self._host.durable:
            note(self._delta)
            self._dirty = True
            self.schedule_flush()

    # --- durability

    def _settle_with(self, on_done: OnDone, wrong: InvalidArgument | None = None) -> None:
        """Answer once what was said is durable; with `wrong` when part of it was of no message."""
        answer = on_done if wrong is None else (lambda error: on_done(error or wrong))
        writing = self._writing_since_s is not None
        if not self._host.durable or not (self._unwritten or writing):
            self._dirty = self._dirty and self._host.durable
            self._delta = OrdinalBitmap()
            answer(None)
        else:
            self._waiting.append(answer)
            self.schedule_flush()
        self._host.wake()

    def schedule_flush(self) -> None:
        """Write what changed, soon."""
        if (
            self._host.durable and not self._flush_scheduled and self._writing_since_s is None
        ):
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what changed as one delta; the next one collects meanwhile."""
        self._flush_scheduled = False
        host = self._host
        if self._writing_since_s is not None or self._closed:
            return
        for failed in records_of(host.name, host.counts.take_changes()):
            host.write_state(failed, lambda _error: None)
        if not self._dirty and not self._waiting:
            return
        floor, waiting = host.cursor.floor, self._waiting
        record = Acknowledged(host.name, floor, tuple(self._delta.above(floor)))
        self._delta = OrdinalBitmap()
        self._waiting = []
        self._dirty = False
        self._writing_since_s = self._clock.monotonic_s()
        epoch = host.epoch

        def written(error: MagnetarError | None) -> None:
            stalled = self.stalled
            self._writing_since_s = None
            if error is None and epoch == host.epoch:
                self.durable_floor = max(self.durable_floor, floor)
                host.position_moved()
            for on_done in waiting:
                on_done(error)
            if error is None and (self._unwritten or self._waiting):
                self.schedule_flush()
            if stalled:
                host.wake()

        host.write_state(record, written)

    async def flushed(self) -> None:
        """Wait until everything said so far, of what is done and of what failed, is durable;
        raises what prevents it."""
        if not self._host.durable:
            return
        if self._ended_by is not None:
            raise self._ended_by
        if self._closed or not (
            self._unwritten or self._writing_since_s is not None or self._waiting
        ):
            return
        done: asyncio.Future[MagnetarError | None] = asyncio.get_running_loop().create_future()

        def settled(error: MagnetarError | None) -> None:
            if not done.done():
                done.set_result(error)

        self._settle_with(settled)
        error = await done
        if error is not None:
            raise error

    # --- ends

    def forget_delta(self) -> None:
        """A seek: what was acknowledged and not yet written need not be."""
        self._delta = OrdinalBitmap()

    def answer(self, error: MagnetarError | None) -> None:
        """Whoever waits for an acknowledgement is told; of an error also whoever comes later."""
        self._ended_by = error
        waiting, self._waiting = self._waiting, []
        for on_done in waiting:
            on_done(error)

    def close(self) -> None:
        """Write nothing more."""
        self._closed = True
        for task in sorted(self._tasks, key=lambda task: task.get_name()):
            task.cancel()
