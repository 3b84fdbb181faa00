"""A producer's batch beside what its source stored before."""

from __future__ import annotations

from broker.conversation import Receipt
from broker.deduplication import BatchInFlight, Source
from broker.producer_session import ProducerSession
from magnetar.entry import EntryHeader, EntryView
from magnetar.errors import SequenceOverlap
from magnetar.runtime.network import Buffer


def settle_if_known(
    session: ProducerSession, receipt: Receipt, source: Source, batch: Buffer, header: EntryHeader
) -> bool:
    """True when the batch was seen before, and its receipt is taken care of. Raises
    InvalidArgument when it was refused then, while later ones were stored."""
    first, last = header.first_sequence_id, header.last_sequence_id
    if first > source.last_pushed:
        return False
    ids = None
    if last - first + 1 != header.count:
        view = EntryView(batch, verify=False)
        ids = [view.sequence_id(index) for index in range(view.count)]
    try:
        known = source.check(first, last, ids)
    except SequenceOverlap as error:
        session.barred = True
        overlap = error
        if source.in_flight:
            # Told only once what it overlaps is durable: the producer drops that part.
            source.in_flight[-1].waiting.append(
                lambda _place: session.settle(receipt, error=overlap)
            )
        else:
            session.settle(receipt, error=overlap)
        return True
    if known is None:
        return False
    if isinstance(known, BatchInFlight):
        known.waiting.append(
            lambda place: session.settle(receipt, place.ledger_id, place.entry_id)
        )
    else:
        session.settle(receipt, known.ledger_id, known.entry_id)
    return True
