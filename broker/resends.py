"""A producer's batch beside what its source stored before."""

from __future__ import annotations

from broker.conversation import Receipt
from broker.deduplication import BatchInFlight, Source
from broker.producer_session import ProducerSession
from magnetar.errors import SequenceOverlap


def settle_if_known(
    session: ProducerSession, receipt: Receipt, source: Source, first: int, last: int
) -> bool:
    """True when the batch was seen before, and its receipt is taken care of."""
    try:
        known = source.check(first, last)
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
