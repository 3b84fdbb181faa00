"""The next ledger metadata when bookies of the last fragment change (R6) or a ledger ends (R14).

Pure functions from metadata to metadata; who calls them owns the compare-and-set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ledger.invariant import invariant
from magnetar.ids import BookieId, EntryId
from metadata.ledgers import Fragment, LedgerMetadata, LedgerState


def with_replacements(
    metadata: LedgerMetadata,
    last_add_confirmed: EntryId,
    replacements: Mapping[int, BookieId],
    *,
    old_lacks_copies: bool,
    new_lacks_copies: bool,
) -> LedgerMetadata:
    """Give slots of the last ensemble other bookies from LAC + 1 on.

    A last fragment that would be left without entries is replaced, else one is appended.
    """
    last = metadata.fragments[-1]
    first_entry = EntryId(last_add_confirmed + 1)
    invariant(
        first_entry >= last.first_entry, "R6",
        f"a fragment from {first_entry} would begin before {last.first_entry}",
    )
    ensemble = tuple(
        replacements.get(slot, bookie) for slot, bookie in enumerate(last.ensemble)
    )
    invariant(
        len(set(ensemble)) == len(ensemble), "I14", f"a bookie twice in the ensemble {ensemble}"
    )
    fragment = Fragment(first_entry, ensemble, new_lacks_copies)
    kept = metadata.fragments[:-1]
    if first_entry > last.first_entry:
        kept = (*kept, replace(last, under_replicated=last.under_replicated or old_lacks_copies))
    return replace(metadata, fragments=(*kept, fragment))


def marked_under_replicated(metadata: LedgerMetadata) -> LedgerMetadata:
    """Say that copies of the last fragment are missing."""
    marked = replace(metadata.fragments[-1], under_replicated=True)
    return replace(metadata, fragments=(*metadata.fragments[:-1], marked))


def closed(
    metadata: LedgerMetadata, last_entry: EntryId, length_bytes: int, *, lacks_copies: bool
) -> LedgerMetadata:
    """R14: the ledger ends at `last_entry`; the end of a closed ledger never moves."""
    invariant(
        metadata.state is not LedgerState.CLOSED, "R14", "a closed ledger is not closed again"
    )
    last = metadata.fragments[-1]
    invariant(
        last_entry >= last.first_entry - 1, "R14",
        f"an end at {last_entry} cuts the fragments before {last.first_entry}",
    )
    if lacks_copies and last_entry >= last.first_entry:
        metadata = marked_under_replicated(metadata)
    return replace(
        metadata, state=LedgerState.CLOSED, last_entry=last_entry, length_bytes=length_bytes
    )
