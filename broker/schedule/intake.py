"""The producers' side of a schedule: a delayed batch from its stream to its receipt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from broker.conversation import Receipt
from broker.deduplication import BatchInFlight, Source
from broker.producer_session import ProducerSession
from broker.resends import settle_if_known
from broker.schedule.lane import ScheduleLane
from broker.schedule.schedule import Schedule
from ledger.position import Position
from magnetar.entry import EntryHeader, EntryView
from magnetar.errors import InvalidArgument
from magnetar.runtime.network import Buffer


class Verdict(Enum):
    """What became of a delayed batch on its arrival."""

    NEW = "new"
    """On its way to the bookies."""
    KNOWN = "known"
    """Stored before; it gets the receipt it got first."""
    REFUSED = "refused"
    """The topic takes nothing now; its producer is told."""


class Intake:
    """Delayed batches of all producers of a topic. `on_stored` hears of each that is, how many
    messages and bytes it has."""

    def __init__(
        self, schedule: Schedule, lane: ScheduleLane, on_stored: Callable[[int, int], None]
    ) -> None:
        self._schedule = schedule
        self._lane = lane
        self._on_stored = on_stored

    @property
    def pending_bytes(self) -> int:
        """Bytes on their way to the schedule's bookies."""
        return self._schedule.pending_bytes

    @property
    def congested(self) -> bool:
        """Too many delayed messages wait in memory for producers to go on."""
        return self._schedule.congested

    def in_flight(self, producer_name: str) -> BatchInFlight | None:
        """The producer's newest delayed batch that is not stored yet."""
        source = self._lane.sources.get(producer_name)
        return source.in_flight[-1] if source is not None and source.in_flight else None

    def last_stored(self, producer_name: str) -> int:
        """The highest sequence id of the producer that is in the schedule; -1: none."""
        source = self._lane.sources.get(producer_name)
        return -1 if source is None else source.last_stored

    def take(
        self, session: ProducerSession, receipt: Receipt, batch: Buffer, header: EntryHeader,
        deduplicated: bool, refuses: Callable[[], bool],
    ) -> Verdict:
        """A batch with delivery times; `refuses` is asked about a new one. Raises
        InvalidArgument, NotSupported for one that cannot be scheduled."""
        times_ms = delivery_times(batch)
        receipt.scheduled = True
        source = self._lane.sources.lane(session.source)
        if deduplicated and settle_if_known(session, receipt, source, batch, header):
            return Verdict.KNOWN
        if refuses():
            return Verdict.REFUSED
        flying = source.push(header.first_sequence_id, header.last_sequence_id)

        def stored(place: Position) -> None:
            self._stored(session, receipt, source, flying, place)
            self._on_stored(header.count, len(batch))

        self._schedule.append(batch, times_ms, stored)
        return Verdict.NEW

    def _stored(
        self, session: ProducerSession, receipt: Receipt, source: Source, flying: BatchInFlight,
        place: Position,
    ) -> None:
        self._lane.sources.stored(source, flying, place.ledger_id, place.entry_id)
        session.settle(receipt, place.ledger_id, place.entry_id)
        for waiting in flying.waiting:
            waiting(place)


def delivery_times(batch: Buffer) -> Sequence[int]:
    """When each message is to be delivered; reads the whole batch, so that what is scheduled is
    certain to be readable when it is due. Raises InvalidArgument, InvalidFrame, NotSupported."""
    view = EntryView(batch, verify=False)
    times_ms = view.delivery_times_ms()
    if min(times_ms) <= 0:
        raise InvalidArgument(
            "some messages of the batch are to be delivered at once and some later; a batch is"
            " wholly the one or the other: send two"
        )
    view.verify_messages()
    return times_ms

