"""A topic's state: records in ledgers of their own, replaced by a snapshot now and then.

The topic's record lists the ledgers; replay reads them in order. A snapshot is stored whole in
a new ledger before the record names that ledger alone, so a crash at any moment leaves either
the old ledgers or the new one (M4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ledger.chain import EndedLedger, LedgerChain, OnAppended
from ledger.doomed_ledgers import delete_doomed, with_doomed
from ledger.driver import LedgerStore, LedgerWriterHandle
from ledger.quorum import Quorums
from ledger.topic_record import OwnedTopic
from magnetar.errors import LedgerError, LedgerFenced
from magnetar.ids import EntryId, LedgerId
from metadata.topics import TopicRecord

REPLAY_ENTRIES: Final = 4096
REPLAY_BYTES: Final = 4 << 20


class StateLog:
    """Made by `ManagedLog.open`; fenced together with it."""

    def __init__(
        self,
        owned: OwnedTopic,
        ledgers: LedgerStore,
        quorums: Callable[[], Quorums],
        recovered: Sequence[bytes],
        on_fenced: Callable[[LedgerError], None],
    ) -> None:
        self._owned = owned
        self._ledgers = ledgers
        self._recovered: list[bytes] = [*recovered]
        self._chain = LedgerChain(
            f"state of {owned.record.name}", ledgers, quorums, self, _is_full, on_fenced
        )
        self.size_bytes = sum(map(len, recovered))
        """Bytes that a replay would read."""

    @classmethod
    async def recover(
        cls, state_ledgers: Sequence[LedgerId], ledgers: LedgerStore
    ) -> list[bytes]:
        """Close the ledgers and read their records. Raises RecoveryAborted, EntryUnknown."""
        readers = await asyncio.gather(*(ledgers.recover(one) for one in state_ledgers))
        records: list[bytes] = []
        for reader in readers:
            first = 0
            while first <= reader.last_entry:
                entries = await reader.read(EntryId(first), REPLAY_ENTRIES, REPLAY_BYTES)
                records.extend(entry.body for entry in entries)
                first += len(entries)
        return records

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not yet stored."""
        return self._chain.pending_bytes

    @property
    def blocked_reason(self) -> str | None:
        """Why appends wait, for an operator; None when nothing is in the way."""
        return self._chain.blocked_reason

    async def replay(self) -> list[bytes]:
        """The records from before this owner, oldest first; the memory is given back, so that a
        second call answers nothing."""
        records, self._recovered = self._recovered, []
        return records

    def append(self, record: bytes, on_done: OnAppended) -> None:
        """Append in order; `on_done` as of `ManagedLog.append`."""
        self.size_bytes += len(record)
        self._chain.append(record, on_done)

    async def compact(self, snapshot_records: Sequence[bytes]) -> None:
        """Replace all that was appended before this call by the snapshot.

        Appends made meanwhile come after it. Raises LedgerFenced, LedgerClosed.
        """
        before = self.size_bytes
        await self._chain.replace_by([*snapshot_records])
        self.size_bytes += sum(map(len, snapshot_records)) - before

    async def close(self) -> None:
        """Store what is in flight and take no more."""
        await self._chain.close()

    def fence(self, error: LedgerError) -> None:
        """Stop for good."""
        self._chain.fence(error)

    # -- the record, as the chain keeps it -----------------------------------------------------

    async def record_chain(
        self, ended: Sequence[EndedLedger], opened: LedgerId | None
    ) -> None:
        """See `ChainKeeper`; how a state ledger ended is in its own record only."""
        empty = [one.ledger_id for one in ended if one.entries == 0]

        def changed(record: TopicRecord) -> TopicRecord:
            kept = tuple(one for one in record.state_ledgers if one not in empty)
            return with_doomed(_with_state_ledger(record, kept, opened), empty)

        await self._owned.update(changed)
        if empty:
            await delete_doomed(self._owned, self._ledgers)

    async def may_name(self, ledger_id: LedgerId) -> bool:
        """See `ChainKeeper`."""
        return await self._owned.may_name(ledger_id)

    async def record_snapshot(self, opened: LedgerId | None) -> None:
        """See `ChainKeeper`."""
        def changed(record: TopicRecord) -> TopicRecord:
            return with_doomed(_with_state_ledger(record, (), opened), record.state_ledgers)

        await self._owned.update(changed)
        await delete_doomed(self._owned, self._ledgers)


def _with_state_ledger(
    record: TopicRecord, kept: tuple[LedgerId, ...], opened: LedgerId | None
) -> TopicRecord:
    if opened is None:
        return replace(record, state_ledgers=kept)
    if record.state_ledgers and opened <= record.state_ledgers[-1]:
        raise LedgerFenced(
            f"state ledger {opened} is not above {record.state_ledgers[-1]} of {record.name}"
        )
    return replace(record, state_ledgers=(*kept, opened))


def _is_full(writer: LedgerWriterHandle, opened_s: float) -> bool:
    """State ledgers grow until they are replaced by a snapshot."""
    return False
