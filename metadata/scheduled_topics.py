"""Which topics have scheduled messages, so that brokers find those that nobody has loaded.

A mark says that a ledger of the topic's schedule was opened. It is made after the topic's record
names the ledger and before anything is written to it, and may go once the record, read later than
the mark, has no schedule: what is scheduled after that comes with a mark of its own, since a
ledger's id is never taken twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final

from magnetar.errors import AlreadyExists, NotFound
from magnetar.ids import LedgerId
from metadata import paths
from metadata.cas import create_settled, delete_settled
from metadata.records import encode_record
from metadata.store import MetadataStore, child_names

MARK: Final = encode_record({})
"""The name of the node says it all."""


class ScheduledTopics:
    """The marks of all topics."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def mark(self, name: str, ledger_id: LedgerId) -> None:
        """The topic of this full name has this ledger of its schedule. Raises ConnectionLoss,
        SessionExpired."""
        try:
            await create_settled(self._store, paths.scheduled_topic(name, ledger_id), MARK)
        except AlreadyExists:
            return

    async def unmark(self, name: str, ledger_ids: Iterable[LedgerId]) -> None:
        """Forget these marks; absent already is fine."""
        for ledger_id in ledger_ids:
            try:
                await delete_settled(self._store, paths.scheduled_topic(name, ledger_id))
            except NotFound:
                continue

    async def in_parts(self) -> AsyncIterator[dict[str, list[LedgerId]]]:
        """The marked topics by full name, each with its marks in order; bucket by bucket, no
        snapshot."""
        for bucket in await child_names(self._store, paths.SCHEDULED):
            found: dict[str, list[LedgerId]] = {}
            for part in await child_names(self._store, f"{paths.SCHEDULED}/{bucket}"):
                name, ledger_id = paths.scheduled_topic_of(part)
                found.setdefault(name, []).append(ledger_id)
            yield found
